"""Artifacts on disk: what a step made, under a key that hashes its inputs' contents, its settings and its code.

    store/KIND/KEY/             a finished artifact: its files, and manifest.json, written last
    store/.work/KEY/            a step's own scratch (checkpoints within a cell); stays when the step is killed

An artifact is built in a folder beside, synced and renamed: it is there whole or not at all.
"""

import fcntl
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_files, digest_of_text, full_disk_is_a_sentence, sync, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A finished step's output.

    `digest` covers the contents, not the measurements, so that two trainings that end at the same weights are one
    input to what follows. `measured` holds seconds, bytes and the like.
    """

    key: str
    folder: Path
    digest: str
    measured: dict[str, Any]


@cache
def code_version(*names: str) -> str:
    """A digest of the source of modules and packages, taken from their files without importing them."""
    files: list[str] = []
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name)
        origin = Path(spec.origin)
        sources = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        files += [f"{name}/{source.name}:{digest_of_text(source.read_text('utf-8'))}" for source in sources]
    return digest_of_text("\n".join(files))


def key_of(kind: str, settings: Mapping[str, Any], inputs: Mapping[str, str], code: str) -> str:
    """The key of a step: what it is, what it is told, the contents it reads and the code it runs."""
    return digest_of_text(canonical([kind, settings, inputs, code]))[:20]


class Store:
    """The artifacts of one run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with full_disk_is_a_sentence(root / "x"):
            (root / ".work").mkdir(parents=True, exist_ok=True)

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact under a key, or None where it is not finished."""
        folder = self.root / kind / key
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:  # a manifest that some other hand broke: the step is simply not done
            return None
        return Artifact(key, folder, manifest["digest"], manifest["measured"])

    def scratch(self, key: str) -> Path:
        """The folder in which an unfinished step keeps what it needs to go on after a kill."""
        folder = self.root / ".work" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def begin(self, kind: str, key: str) -> Path:
        """An empty folder to build an artifact in, beside its final place."""
        parent = self.root / kind
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(f".{key}.*"):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=parent, prefix=f".{key}."))

    def finish(self, kind: str, key: str, built: Path, about: Mapping[str, Any], measured: dict[str, Any]) -> Artifact:
        """Sync what was built, write its manifest last and rename it to its place; drop the step's scratch."""
        with full_disk_is_a_sentence(built / MANIFEST):
            files = [path for path in built.rglob("*") if path.is_file()]
            for path in files:
                sync(path)
            digest = digest_of_files(files, built)
            manifest = {"kind": kind, "key": key, "digest": digest, "about": dict(about), "measured": measured}
            write_json(built / MANIFEST, manifest)
            built.chmod(0o755)
            sync(built)
            target = self.root / kind / key
            shutil.rmtree(target, ignore_errors=True)  # a broken one, or verdicts that met an outage
            built.rename(target)
            sync(target.parent)
        shutil.rmtree(self.root / ".work" / key, ignore_errors=True)
        return Artifact(key, target, digest, measured)


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Hold a run folder for one process; a second one is told so at once. The lock dies with its holder."""
    with full_disk_is_a_sentence(run_folder / "x"):
        run_folder.mkdir(parents=True, exist_ok=True)
        file = (run_folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another run is at work in {run_folder}: wait for it, or choose another --run-dir."
            ) from error
        yield


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, in all its depths."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
