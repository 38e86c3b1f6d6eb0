"""The artifact store: whole or not there, and keyed by contents."""

from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.manifest import Manifest
from esft_bench.harness.store.soundness import settled


def finished(store, text="weights", measured=None):
    built = store.begin("train", "k")
    (built / "adapter").mkdir()
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


def test_files_that_were_described_where_they_were_made_are_taken_at_their_word_unless_they_are_others(tmp_path):
    described = {}
    for key, told in (("right", "weights"), ("wrong", "other weights")):
        store = Store(tmp_path / key)
        built = store.begin("train", "k")
        (built / "a.txt").write_text("weights")
        files = settled(built)
        (built / "a.txt").write_text(told)
        described[key] = files
        made = store.finish(built, Manifest(kind="train", key="k", digest="", files=files))
        assert (made.manifest.files == files) == (key == "right")
        assert Store(tmp_path / key).find("train", "k") == made
    assert described["right"] == described["wrong"]
