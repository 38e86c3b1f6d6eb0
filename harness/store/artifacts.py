"""Artifacts on disk: what a step made, under a key that hashes its inputs' contents, its settings and its code.

    store/KIND/KEY/             a finished artifact: its files, and manifest.json, written last
    store/.work/KEY/            a step's own scratch (checkpoints within a training); stays when the step is killed
    store/.damaged/KIND-KEY/    what was found damaged, set aside when it was made again

An artifact is built in a folder beside, synced and renamed: it is there whole or not at all. Its manifest says what it
came from, so that every number can be followed back, and what its files are, so that nothing damaged is used: what is
not as it was written counts as not there, and is set aside when it is made again.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from esft_bench.harness.store.notes import Notes
from esft_bench.harness.store.soundness import File, Stamp, described, fault, files_in, stamp
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import (
    canonical,
    digest_of_digests,
    digest_of_text,
    full_disk_is_a_sentence,
    made_folder,
    remove,
    sync,
    write_json,
)

MANIFEST = "manifest.json"
WORK, DAMAGED = ".work", ".damaged"


class Input(BaseModel):
    """What a step read: another artifact by its kind and key, or files by their path; with the contents' digest."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    digest: str
    kind: str = ""
    key: str = ""
    path: str = ""


class Manifest(BaseModel):
    """What an artifact is and what it came from.

    Attributes:
        kind, key: where it lies.
        label: the cell, and the benchmark if there is one, that it was made for first.
        digest: of the files' names and contents, without this manifest and without what was measured.
        files: each of them as it was written.
        inputs: what was read, by its role.
        settings: what the step was told.
        sources, versions: digests of the source it ran, by module, and versions of the libraries that computed.
        measured: seconds, bytes and the like.
        made: when, UTC.
        seal: digest of all the others, by which a manifest that some other hand changed is known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    kind: str
    key: str
    label: str = ""
    digest: str
    files: dict[str, File] = {}
    inputs: dict[str, Input] = {}
    settings: dict[str, Any] = {}
    sources: dict[str, str] = {}
    versions: dict[str, str] = {}
    measured: dict[str, Any] = {}
    made: str = ""
    seal: str = ""

    @property
    def sealed(self) -> "Manifest":
        """The same with its seal."""
        return self.model_copy(update={"seal": self._seal})

    @property
    def is_sound(self) -> bool:
        """Whether it is what was written."""
        files = {name: file.sha256 for name, file in self.files.items()}
        return self.seal == self._seal and self.digest == digest_of_digests(files)

    @property
    def _seal(self) -> str:
        return digest_of_text(canonical(self.model_dump(mode="json", exclude={"seal"})))


@dataclass(frozen=True)
class Artifact:
    """A finished step's output. Two trainings that end at the same weights have one digest and are one input."""

    folder: Path
    manifest: Manifest

    @property
    def key(self) -> str:
        """The key it lies under."""
        return self.manifest.key

    @property
    def digest(self) -> str:
        """Of its contents."""
        return self.manifest.digest

    @property
    def measured(self) -> dict[str, Any]:
        """What making it took."""
        return self.manifest.measured

    @property
    def name(self) -> str:
        """Kind and key, as records name their source."""
        return f"{self.manifest.kind}/{self.key}"


class DamagedError(Exception):
    """What lies under a key is not what was written there."""


class Store:
    """The artifacts that the runs of one folder share.

    Attributes:
        news: a sentence for each thing that was found damaged, in the order it was found.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.news: list[str] = []
        self._damaged: set[Path] = set()
        self._sound: dict[tuple[Path, bool], Stamp] = {}
        with full_disk_is_a_sentence(root / "x"):
            made_folder(root / WORK)

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact under a key; None where it is not finished, or a look shows damage (see soundness)."""
        folder = self.root / kind / key
        if not os.path.lexists(folder):
            return None
        try:
            return self._checked(folder, whole=False)
        except DamagedError:
            return None

    def check(self, artifact: Artifact, *, again: bool = False) -> None:
        """Read the whole of an artifact before it is used, once in a process or where somebody touched it since.

        With `again` in any case. Raises DamagedError where it is not what was written; it then counts as not there.
        """
        if again:
            self._sound.pop((artifact.folder, True), None)
        if self._checked(artifact.folder, whole=True) != artifact:
            self._note(artifact.folder, f"{MANIFEST} is not what was written")
            raise DamagedError(artifact.name)

    def notes(self, folder: str) -> Notes:
        """The notes of a kind."""
        return Notes(self.root / folder, self.news)

    def _checked(self, folder: Path, *, whole: bool) -> Artifact:
        if folder in self._damaged:
            raise DamagedError(folder)
        try:
            now = stamp(folder)
            artifact = read_artifact(folder)
            if artifact is None:
                raise DamagedError(f"{MANIFEST} is not what was written")
            if (artifact.manifest.kind, artifact.key) != (folder.parent.name, folder.name):
                raise DamagedError(f"it is {artifact.name}")
            if self._sound.get((folder, whole)) != now:
                found = fault(files_in(folder, MANIFEST), artifact.manifest.files, whole=whole)
                if found:
                    raise DamagedError(found)
            self._sound[folder, whole] = now
        except (DamagedError, OSError) as error:
            self._note(folder, str(error))
            raise DamagedError(str(error)) from error
        return artifact

    def _note(self, folder: Path, what: str) -> None:
        """Say that an artifact is damaged."""
        self._damaged.add(folder)
        found = read_artifact(folder)
        label = f" ({found.manifest.label})" if found and found.manifest.label else ""
        name = f"{folder.parent.name}/{folder.name}"
        self.news.append(f"Damaged: {name}{label}, {what}; it is made again, and kept in {self.root / DAMAGED}.")

    def _set_aside(self, folder: Path) -> None:
        """Move what is damaged out of the way."""
        aside = made_folder(self.root / DAMAGED) / f"{folder.parent.name}-{folder.name}"
        remove(aside)
        try:
            folder.rename(aside)
        except OSError:  # a folder without permissions cannot be moved
            remove(folder)
        self._damaged.discard(folder)

    def scratch(self, key: str) -> Path:
        """The folder in which an unfinished step keeps what it needs to go on after a kill."""
        return made_folder(self.root / WORK / key)

    def begin(self, kind: str, key: str) -> Path:
        """An empty folder to build an artifact in, beside its final place. What is damaged there is set aside."""
        parent = made_folder(self.root / kind)
        if parent / key in self._damaged:
            self._set_aside(parent / key)
        for leftover in parent.glob(f".{key}.*"):  # of a run that was killed
            remove(leftover)
        return Path(tempfile.mkdtemp(dir=parent, prefix=f".{key}."))

    def finish(self, built: Path, manifest: Manifest) -> Artifact:
        """Sync what was built, write its manifest (files and digest are filled in) last and rename it to its place.

        The step's scratch is dropped.
        """
        with full_disk_is_a_sentence(built / MANIFEST):
            there = files_in(built)
            for path in there.values():
                sync(path)
            files = described(there)
            digest = digest_of_digests({name: file.sha256 for name, file in files.items()})
            manifest = manifest.model_copy(update={"files": files, "digest": digest}).sealed
            write_json(built / MANIFEST, manifest.model_dump(mode="json"))
            built.chmod(0o755)
            sync(built)
            target = self.root / manifest.kind / manifest.key
            remove(target)  # verdicts that met an outage
            built.rename(target)
            sync(target.parent)
        remove(self.root / WORK / manifest.key)
        self._sound[target, True] = self._sound[target, False] = stamp(target)
        return Artifact(target, manifest)


def read_artifact(folder: Path) -> Artifact | None:
    """The artifact in a folder; None without a sound manifest."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None
    return Artifact(folder, manifest) if manifest.is_sound else None


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Hold a run folder for one process; a second one is told so at once. The lock dies with its holder."""
    with full_disk_is_a_sentence(run_folder / "x"):
        run_folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"Another run is at work in {run_folder}: wait for it, or choose another --run-dir."
            ) from error
    try:
        yield
    finally:
        lock.release()


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, in all its depths."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
