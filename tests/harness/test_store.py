"""The artifact store: whole or not there, and keyed by contents."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.store import Store, code_version, key_of, locked
from esft_bench.spec.errors import UserError


def finished(store, text="weights", measured=None):
    built = store.begin("train", "k")
    (built / "adapter").mkdir()
    (built / "adapter" / "a.txt").write_text(text)
    return store.finish("train", "k", built, {"method": "fft"}, measured or {})


def test_a_finished_artifact_is_found_with_what_it_measured(tmp_path):
    store = Store(tmp_path)
    made = finished(store, measured={"seconds": 2.0})
    assert store.find("train", "k") == made
    assert (made.folder / "adapter" / "a.txt").read_text() == "weights"


def test_an_artifact_that_was_only_begun_is_not_found_and_its_leftovers_go(tmp_path):
    store = Store(tmp_path)
    begun = store.begin("train", "k")
    (begun / "half").write_text("half")
    assert store.find("train", "k") is None
    again = store.begin("train", "k")
    assert again != begun
    assert not begun.exists()


def test_a_broken_manifest_means_the_step_is_not_done(tmp_path):
    store = Store(tmp_path)
    made = finished(store)
    (made.folder / "manifest.json").write_text('{"digest": ')
    assert store.find("train", "k") is None
    assert finished(store).digest == made.digest


def test_the_digest_covers_contents_and_not_measurements(tmp_path):
    one = finished(Store(tmp_path / "a"), measured={"seconds": 1.0})
    two = finished(Store(tmp_path / "b"), measured={"seconds": 9.0})
    other = finished(Store(tmp_path / "c"), text="other weights")
    assert one.digest == two.digest != other.digest


@given(st.dictionaries(st.text(max_size=5), st.integers()), st.sampled_from(["kind", "settings", "inputs", "code"]))
def test_a_key_changes_with_each_of_its_parts_and_with_nothing_else(settings, part):
    base = {"kind": "train", "settings": settings, "inputs": {"backbone": "1"}, "code": "c"}
    changed = {**base, part: {**base[part], "new": "2"} if isinstance(base[part], dict) else "other"}
    assert key_of(**base) == key_of(**{**base, "settings": dict(reversed(settings.items()))})
    assert key_of(**base) != key_of(**changed)


def test_the_code_version_of_a_package_differs_from_that_of_one_of_its_modules():
    assert code_version("esft_bench.methods") != code_version("esft_bench.methods.errors")


def test_a_run_folder_is_held_by_one_process_and_freed_by_its_death(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from esft_bench.harness.store import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="Another run is at work"), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        pass
