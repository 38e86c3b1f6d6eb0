"""Looks that one process leaves for another: believed as long as nobody has touched what was looked at."""

import os

import pytest

from esft_bench.harness.store import artifacts
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.manifest import read_manifest
from tests.harness import damages
from tests.harness.damages import TO_A_FILE, TO_A_FOLDER
from tests.harness.test_damaged import made


def another(root):
    """A process that goes by what others have looked at."""
    store = Store(root)
    store.looks.recall()
    return store


@pytest.fixture
def seen(tmp_path):
    """An artifact that a process has made, and left its look of."""
    store = Store(tmp_path)
    artifact = made(store)
    store.keep_looks([artifact])
    return artifact


@pytest.fixture
def reads(monkeypatch):
    """The artifacts whose manifests were read."""
    found = []

    def read(folder):
        found.append(folder)
        return read_manifest(folder)

    monkeypatch.setattr(artifacts, "read_manifest", read)
    return found


def test_what_another_process_has_looked_at_is_not_read_again(tmp_path, seen, reads):
    assert another(tmp_path).find("train", "k") == seen
    assert reads == []
    assert Store(tmp_path).find("train", "k") == seen
    assert reads == [seen.folder]


def test_who_uses_an_artifact_reads_it_whatever_others_have_seen(tmp_path, seen, reads):
    store = another(tmp_path)
    assert store.check(store.find("train", "k")) == seen
    assert reads == [seen.folder]


@pytest.mark.parametrize("name", ["adapter/a.bin", "log.json", "manifest.json"])
@pytest.mark.parametrize("damage", TO_A_FILE)
def test_a_file_that_was_damaged_since_is_seen_even_with_its_times_set_back(tmp_path, seen, damage, name):
    times = (seen.folder / name).stat()
    damage(seen.folder / name)
    if (seen.folder / name).is_file():
        os.utime(seen.folder / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    store = another(tmp_path)
    assert store.find("train", "k") is None
    assert len(store.news) == 1


@pytest.mark.parametrize("damage", TO_A_FOLDER)
def test_a_folder_that_was_damaged_since_is_seen(tmp_path, seen, damage):
    damage(seen.folder)
    assert another(tmp_path).find("train", "k") is None


@pytest.mark.parametrize("damage", TO_A_FILE)
def test_damaged_looks_are_none(tmp_path, seen, reads, damage):
    damage(tmp_path / ".looks" / "train.json")
    store = another(tmp_path)
    found = store.find("train", "k")
    assert found == seen
    assert (reads, store.news) == ([seen.folder], [])
    store.keep_looks([found])
    assert another(tmp_path).find("train", "k") == seen
    assert len(reads) == 1


def test_looks_of_others_stay_and_those_at_what_is_gone_go(tmp_path, seen, reads):
    store = Store(tmp_path)
    store.keep_looks([made(store, "other")])
    damages.made_a_file(tmp_path / "train" / "other")
    (tmp_path / "train" / "other").unlink()
    store.keep_looks([made(store, "third")])
    store = another(tmp_path)
    assert [store.find("train", key) is not None for key in ("k", "other", "third")] == [True, False, True]
    assert reads == []
    assert "other" not in (tmp_path / ".looks" / "train.json").read_text()


def test_a_file_where_looks_are_kept_makes_way(tmp_path, seen):
    (tmp_path / ".looks").rename(tmp_path / "aside")
    (tmp_path / ".looks").write_text("a file")
    store = another(tmp_path)
    store.keep_looks([store.find("train", "k")])
    assert another(tmp_path).find("train", "k") == seen
