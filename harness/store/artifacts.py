"""Artifacts on disk: what a step made, under a key that hashes its inputs' contents, its settings and its code.

    store/KIND/KEY/             a finished artifact: its files, and manifest.json, written last
    store/.work/KEY/            a step's own scratch (checkpoints within a training); stays when the step is killed
    store/.damaged/KIND-KEY/    what did not match its digest when it was used, set aside

An artifact is built in a folder beside, synced and renamed: it is there whole or not at all. Its manifest says what it
came from, so that every number can be followed back.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_files, digest_of_text, full_disk_is_a_sentence, sync, write_json

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
        return self.seal == self._seal

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
    """An artifact's files are not what was written. It has been set aside, and is to be made again."""


class Store:
    """The artifacts that the runs of one folder share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sound: set[Path] = set()
        with full_disk_is_a_sentence(root / "x"):
            (root / WORK).mkdir(parents=True, exist_ok=True)

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact under a key, or None where it is not finished."""
        return read_artifact(self.root / kind / key)

    def check(self, artifact: Artifact) -> None:
        """Compare an artifact's files with its digest, once in a process, before it is used.

        Raises DamagedError where they differ; the artifact then lies in `.damaged` and counts as not there.
        """
        if artifact.folder in self._sound:
            return
        own = artifact.folder / MANIFEST
        files = [path for path in artifact.folder.rglob("*") if path.is_file() and path != own]
        if digest_of_files(files, artifact.folder) == artifact.digest:
            self._sound.add(artifact.folder)
            return
        aside = self.root / DAMAGED / artifact.name.replace("/", "-")
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        artifact.folder.rename(aside)
        raise DamagedError(f"{artifact.name} ({artifact.manifest.label}) is damaged: set aside in {aside}, made again.")

    def scratch(self, key: str) -> Path:
        """The folder in which an unfinished step keeps what it needs to go on after a kill."""
        folder = self.root / WORK / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def begin(self, kind: str, key: str) -> Path:
        """An empty folder to build an artifact in, beside its final place."""
        parent = self.root / kind
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(f".{key}.*"):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=parent, prefix=f".{key}."))

    def finish(self, built: Path, manifest: Manifest) -> Artifact:
        """Sync what was built, write its manifest (its digest is filled in) last and rename it to its place.

        The step's scratch is dropped.
        """
        with full_disk_is_a_sentence(built / MANIFEST):
            files = [path for path in built.rglob("*") if path.is_file()]
            for path in files:
                sync(path)
            manifest = manifest.model_copy(update={"digest": digest_of_files(files, built)}).sealed
            write_json(built / MANIFEST, manifest.model_dump(mode="json"))
            built.chmod(0o755)
            sync(built)
            target = self.root / manifest.kind / manifest.key
            shutil.rmtree(target, ignore_errors=True)  # a broken one, or verdicts that met an outage
            built.rename(target)
            sync(target.parent)
        shutil.rmtree(self.root / WORK / manifest.key, ignore_errors=True)
        self._sound.add(target)
        return Artifact(target, manifest)


def read_artifact(folder: Path) -> Artifact | None:
    """The artifact in a folder; None without a sound manifest, since the step is then simply not done."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
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
