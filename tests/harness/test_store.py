"""The artifact store: whole or not there, and keyed by contents."""

import math

import pytest

from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.manifest import Manifest
from esft_bench.harness.store.sealing import seal
from esft_bench.spec.files import made_folder


def finished(store, text="weights", measured=None):
    built = store.begin("train", "k")
    (built / "adapter").mkdir(parents=True)
    (built / "adapter" / "a.txt").write_text(text)
    return store.finish(built, Manifest(kind="train", key="k", digest="", measured=measured or {}))


def test_a_finished_artifact_is_found_with_what_it_measured(tmp_path):
    store = Store(tmp_path)
    made = finished(store, measured={"seconds": 2.0})
    assert store.find("train", "k") == made
    assert (made.folder / "adapter" / "a.txt").read_text() == "weights"


def test_an_artifact_that_was_only_begun_is_not_found_and_its_leftovers_go(tmp_path):
    store = Store(tmp_path)
    begun = store.begin("train", "k")
    begun.mkdir()
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


def test_a_manifest_that_another_hand_changed_means_the_step_is_not_done(tmp_path):
    store = Store(tmp_path)
    manifest = finished(store, measured={"seconds": 1.0}).folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("1.0", "2.0"))
    assert store.find("train", "k") is None


@pytest.mark.parametrize("then", ["weights", "other weights"])
def test_what_was_sealed_where_it_was_made_is_taken_at_its_word_unless_it_is_other_files(tmp_path, then):
    manifest = Manifest(kind="train", key="k", digest="", measured={"seconds": 1.0})
    built = made_folder(Store(tmp_path).begin("train", "k"))
    (built / "a.txt").write_text("weights")
    sealed = seal(built, manifest, manifest.measured)
    (built / "a.txt").write_text(then)
    store = Store(tmp_path)
    made = store.finish(built, manifest, sealed)
    assert (made.seal == sealed.seal) == (then == "weights")
    assert made.manifest.digest == made.digest
    assert (made.folder / "a.txt").read_text() == then
    assert Store(tmp_path).find("train", "k") == store.find("train", "k") == made


def test_a_manifest_lies_there_as_it_was_sealed_with_whatever_numbers_and_letters(tmp_path):
    measured = {"loss": math.nan, "most": math.inf, "small": 1e-300, "said": "é\u2028"}
    made = finished(Store(tmp_path), measured=measured)
    assert repr(made.manifest.measured) == repr(measured)


def test_attempts_at_an_artifact_that_were_left_behind_go_when_it_is_begun_again_and_no_others(tmp_path):
    store = Store(tmp_path)
    one, other = store.begin("train", "k"), store.begin("train", "other")
    left = [one, one.with_name(f"{one.name}.7"), other]
    for folder in left:
        folder.mkdir()
    store.begin("train", "k")
    assert [folder.exists() for folder in left] == [False, False, True]
