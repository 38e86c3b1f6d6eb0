"""Damaged artifacts, notes and checkpoints: known, said in one line, set aside or dropped, and never used."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from esft_bench.harness.store import artifacts, soundness
from esft_bench.harness.store.artifacts import DamagedError, Store
from esft_bench.harness.store.manifest import Manifest
from esft_bench.harness.store.notes import Notes
from esft_bench.harness.training.checkpoint import CHECKPOINT, fault
from esft_bench.harness.training.validation import drop_damaged
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import made_folder
from tests.harness import damages
from tests.harness.damages import TO_A_FILE, TO_A_FOLDER
from tests.harness.test_train import VALIDATED, StoppedError, trained, validated


def made(store, key="k", text="weights"):
    built = store.begin("train", key)
    (built / "adapter").mkdir(parents=True)
    (built / "adapter" / "a.bin").write_text(text)
    (built / "log.json").write_text('{"losses": []}')
    return store.finish(built, Manifest(kind="train", key=key, label="a cell", digest=""))


def heals(root, before):
    """A process that comes later finds nothing under the key, says so once, makes it again and keeps what was there."""
    store = Store(root)
    assert store.find("train", "k") is None
    assert store.find("train", "k") is None
    (said,) = store.news
    assert said.startswith("Damaged: train/k")
    again = made(store)
    assert again.digest == before.digest
    assert store.find("train", "k") == Store(root).find("train", "k") == again
    assert os.path.lexists(root / ".damaged" / "train-k")
    return said


@pytest.mark.parametrize("name", ["adapter/a.bin", "log.json", "manifest.json"])
@pytest.mark.parametrize("damage", TO_A_FILE)
def test_an_artifact_with_a_damaged_file_counts_as_not_there_and_is_made_again(tmp_path, damage, name):
    before = made(Store(tmp_path))
    damage(before.folder / name)
    assert name in heals(tmp_path, before)


@pytest.mark.parametrize("damage", TO_A_FOLDER)
def test_an_artifact_whose_folder_is_damaged_counts_as_not_there_and_is_made_again(tmp_path, damage):
    before = made(Store(tmp_path))
    damage(before.folder)
    heals(tmp_path, before)


def test_an_artifact_under_the_key_of_another_counts_as_not_there(tmp_path):
    before, other = made(Store(tmp_path)), made(Store(tmp_path), "other", "other weights")
    damages.exchanged(before.folder, other.folder)
    assert "it is train/other" in heals(tmp_path, before)


@pytest.fixture
def as_nobody():
    """A folder, and rights that root does not have."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders are root's alone
        root = os.geteuid() == 0
        Path(folder).chmod(0o777)
        if root:
            os.seteuid(65534)
        yield Path(folder)
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("name", [".", "adapter", "adapter/a.bin", "manifest.json"])
def test_an_artifact_that_may_not_be_read_is_made_again(as_nobody, name):
    before = made(Store(as_nobody / "store"))
    (before.folder / name).chmod(0)
    store = Store(as_nobody / "store")
    assert store.find("train", "k") is None
    assert len(store.news) == 1
    assert store.find("train", "k") is None
    assert made(store).digest == before.digest


def test_a_large_file_is_measured_at_a_look_and_read_when_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(soundness, "SMALL", 16)
    before = made(Store(tmp_path), text="w" * 17)
    damages.flipped(before.folder / "adapter" / "a.bin")
    store = Store(tmp_path)
    found = store.find("train", "k")
    assert found == before
    with pytest.raises(DamagedError):
        store.check(found)
    assert store.find("train", "k") is None
    damages.halved(before.folder / "adapter" / "a.bin")
    assert Store(tmp_path).find("train", "k") is None


def test_what_was_read_once_is_read_again_where_somebody_touched_it(tmp_path):
    store = Store(tmp_path)
    artifact = made(store)
    store.check(artifact)
    damages.flipped(artifact.folder / "adapter" / "a.bin")
    with pytest.raises(DamagedError):
        store.check(artifact)


def test_damage_that_leaves_no_trace_in_times_is_seen_by_checking_again(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "stamp", lambda found: "as ever")  # what a disk loses by itself
    store = Store(tmp_path)
    artifact = made(store)
    damages.flipped(artifact.folder / "adapter" / "a.bin")
    store.check(artifact)
    with pytest.raises(DamagedError):
        store.check(artifact, again=True)


@pytest.mark.parametrize("place", [".work", ".work/k", "train", ".damaged"])
def test_a_file_where_the_store_has_a_folder_makes_way(tmp_path, place):
    store = Store(tmp_path)
    before = made(store)
    damages.flipped(before.folder / "log.json")
    path = tmp_path / place
    if path.exists():
        damages.made_a_file(path)
    else:
        path.write_text("a file")
    store = Store(tmp_path)
    assert store.find("train", "k") is None
    made_folder(store.scratch("k"))
    assert made(store).digest == before.digest


@pytest.mark.parametrize("damage", [*TO_A_FILE, lambda path: path.write_text(path.read_text().replace("7", "8"))])
def test_a_damaged_note_counts_as_not_there_and_is_written_again(tmp_path, damage):
    Notes(tmp_path).write("a", {"digest": "777"})
    damage(tmp_path / "a.json")
    notes = Notes(tmp_path)
    assert notes.read("a") is None
    assert len(notes.news) == (damage is not damages.deleted)
    notes.write("a", {"digest": "777"})
    assert Notes(tmp_path).read("a") == {"digest": "777"}


def test_notes_under_each_others_names_are_not_believed(tmp_path):
    notes = Notes(tmp_path)
    notes.write("a", {"digest": "1"})
    notes.write("b", {"digest": "2"})
    (tmp_path / "a.json").replace(tmp_path / "b.json")
    assert notes.read("b") is None


def stopped(model, scratch, go=trained, **options):
    """A training that was killed after step 4 of 6 or 8."""

    def stopping(step, steps):
        if step == 4:
            raise StoppedError

    scratch.mkdir()
    with pytest.raises(StoppedError):
        go(model, scratch, checkpoint_every=2, progress=stopping, **options)
    return scratch / CHECKPOINT


@pytest.mark.parametrize("damage", [damage for damage in TO_A_FILE if damage is not damages.deleted])
@pytest.mark.parametrize("file", [CHECKPOINT, "checkpoint-4-*/.metadata", "checkpoint-4-*/__0_0.distcp"])
def test_a_damaged_checkpoint_is_dropped_and_the_training_begins_anew(tiny_model, tmp_path, damage, file):
    path = stopped(tiny_model("olmoe"), tmp_path / "key")
    assert drop_damaged(path.parent) == []
    (damaged,) = path.parent.glob(file)
    damage(damaged)
    (said,) = drop_damaged(path.parent)
    assert "began anew" in said
    assert not list(path.parent.iterdir())
    model, whole = tiny_model("olmoe"), tiny_model("olmoe")
    assert trained(model, path.parent).losses == trained(whole, tmp_path / "whole").losses


def test_every_flipped_bit_of_a_checkpoint_is_known(tiny_model, tmp_path):
    path = stopped(tiny_model("olmoe"), tmp_path / "key")
    for file in [path, *path.parent.glob("checkpoint-4-*/*"), *path.parent.glob("checkpoint-4-*/.metadata")]:
        sound = file.read_bytes()
        for at in range(0, len(sound), max(1, len(sound) // 60)):
            content = bytearray(sound)
            content[at] ^= 1 << at % 8
            file.write_bytes(content)
            assert fault(path.parent, "key"), (file.name, at)
        file.write_bytes(sound)
    assert fault(path.parent, "key") == ""


def test_a_checkpoint_of_another_training_is_not_gone_on_from(tiny_model, tmp_path):
    path = stopped(tiny_model("olmoe"), tmp_path / "key")
    path.parent.rename(tmp_path / "other")
    (said,) = drop_damaged(tmp_path / "other")
    assert "of another training" in said


def test_weights_that_were_the_best_so_far_and_what_training_goes_on_from_stand_and_fall_together(tiny_model, tmp_path):
    best = VALIDATED.model_copy(update={"choose": "best"})
    path = stopped(tiny_model("olmoe"), tmp_path / "key", validated, settings=best)
    kept = path.parent / "best" / CHECKPOINT
    assert drop_damaged(path.parent) == []
    path.write_bytes(kept.read_bytes())
    assert len(drop_damaged(path.parent)) == 1
    assert not path.exists()
    assert not kept.exists()
    whole, again = tiny_model("olmoe"), tiny_model("olmoe")
    assert validated(again, path.parent, best) == validated(whole, tmp_path / "whole", best)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_judge_s_cache_that_is_a_folder_is_one_sentence(judge, tmp_path):
    cache = tmp_path / "broken.sqlite"
    cache.mkdir()
    with pytest.raises(UserError, match=r"The judge's cache .*broken\.sqlite cannot be"):
        judge(cache=cache)
