"""Artifacts on disk: what a step made, under a key that hashes its inputs' contents, its settings and its code.

    store/KIND/KEY/             a finished artifact: its files, and manifest.json, written last
    store/.work/KEY/            a step's own scratch (checkpoints within a training); stays when the step is killed
    store/.new/KIND-KEY-…/      an artifact that is being built
    store/.leases/KIND-KEY/     who is building it
    store/.damaged/KIND-KEY/    what was found damaged, set aside when it was made again

An artifact is built in a folder beside, synced and renamed: it is there whole or not at all. Its manifest says what it
came from, so that every number can be followed back, and what its files are, so that nothing damaged is used: what is
not as it was written counts as not there, and is set aside when it is made again. Who builds one claims it first, so
that several drivers, on several machines, share a store and none builds what another one is building.
"""

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esft_bench.harness.store.leases import LAPSE, Lease, Leases
from esft_bench.harness.store.looks import Look, Looks
from esft_bench.harness.store.manifest import MANIFEST, Manifest, measured_in, read_manifest
from esft_bench.harness.store.notes import Notes
from esft_bench.harness.store.sealing import Sealed, seal
from esft_bench.harness.store.soundness import Found, are_small, fault, files_in, stamp
from esft_bench.spec.files import full_disk_is_a_sentence, made_folder, remove, sync

WORK, NEW, LEASES, DAMAGED = ".work", ".new", ".leases", ".damaged"
FAILED = "failed"
"""Under which name a step says how much of what it was to make it could not."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished step's output, as a look found it. Two trainings that end at the same weights are one input.

    Attributes:
        root: its store.
        kind: the kind of step that made it.
        key: the key it lies under.
        digest, seal: as its manifest has them; all the rest of that, which is much, is read when asked for.
        partial: whether something in it could not be made; see `Step.is_complete`.
        stamp: what its folder's was when it was looked at (see soundness).
        whole: whether all of its files were read then, large ones too.
        at_hand: what was measured, where its manifest was read a moment ago.
    """

    root: Path
    kind: str
    key: str
    digest: str
    seal: str
    partial: bool = False
    stamp: str = field(default="", compare=False)
    whole: bool = field(default=False, compare=False)
    at_hand: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.root / self.kind / self.key

    @property
    def name(self) -> str:
        """Kind and key, as records name their source."""
        return f"{self.kind}/{self.key}"

    @property
    def manifest(self) -> Manifest:
        """What it came from. Raises DamagedError where that cannot be read any more."""
        found = read_manifest(self.folder)
        if found is None:
            raise DamagedError(self._what)
        return found

    @property
    def measured(self) -> dict[str, Any]:
        """What making it measured, as its manifest has it. Raises DamagedError where that cannot be read any more."""
        if self.at_hand is not None:
            return self.at_hand
        found = measured_in(self.folder, self.seal)
        if found is None:
            raise DamagedError(self._what)
        return found

    @property
    def look(self) -> Look:
        """What of it a look leaves for other processes."""
        return Look(self.stamp, self.digest, self.seal, self.partial)

    @property
    def _what(self) -> str:
        return f"{self.folder / MANIFEST} is not what was written"


class DamagedError(Exception):
    """What lies under a key is not what was written there."""


class Store:
    """The artifacts that the runs of one folder share; `lapse` seconds after its last touch a claim is stale.

    Attributes:
        news: a sentence for each thing that was found damaged, in the order it was found.
        leases: who is at work on what; an artifact's has the name `KIND-KEY`.
        looks: what looks of other processes have found.
    """

    def __init__(self, root: Path, lapse: float = LAPSE) -> None:
        self.root = root
        self.news: list[str] = []
        self.leases = Leases(root / LEASES, lapse)
        self._damaged: dict[Path, int] = {}  # with their inodes
        self._unsynced: set[Path] = set()
        self._saw = False  # anything that is not noted
        self.looks = Looks(root)
        with full_disk_is_a_sentence(root / "x"):
            made_folder(root / WORK)

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact under a key; None where it is not finished, or a look shows damage (see soundness)."""
        look = self.looks.at(kind, key)
        if look is None and not os.path.lexists(f"{self.root}/{kind}/{key}"):
            return None
        known = Artifact(self.root, kind, key, look.digest, look.seal, look.partial, look.stamp) if look else None
        try:
            return self._checked(kind, key, known, whole=False)
        except DamagedError:
            return None

    def find_anew(self, kind: str, key: str) -> Artifact | None:
        """The same, where another machine may have made it a moment ago."""
        with suppress(OSError):
            os.close(os.open(self.root / kind, os.O_RDONLY))  # NFS goes by what it remembers of a folder, till then
        return self.find(kind, key)

    def claim(self, kind: str, key: str) -> Lease | None:
        """The right to make an artifact; None where somebody else is making it. It may be there when this is had."""
        return self.leases.claim(f"{kind}-{key}")

    def maker(self, kind: str, key: str) -> str:
        """Who is making an artifact, in words; empty where nobody is."""
        return self.leases.holder(f"{kind}-{key}")

    def check(self, artifact: Artifact, *, again: bool = False) -> Artifact:
        """Read the whole of an artifact before it is used, unless that was done and nobody has touched it since.

        With `again` in any case. Returns it as it was found now. Raises DamagedError where it is not what was written;
        it then counts as not there.
        """
        found = self._checked(artifact.kind, artifact.key, None if again else artifact, whole=True)
        if found != artifact:
            self._note(artifact.folder, f"{MANIFEST} is not what was written")
            raise DamagedError(artifact.name)
        return found

    def notes(self, folder: str) -> Notes:
        """The notes of a kind."""
        return Notes(self.root / folder, self.news)

    def _checked(self, kind: str, key: str, known: Artifact | None, *, whole: bool) -> Artifact:
        """An artifact, read as far as the look by which it is `known` did not read it. Raises DamagedError."""
        if self._damaged and self._is_damaged(self.root / kind / key):
            raise DamagedError(f"{kind}/{key}")
        try:
            there = files_in(f"{self.root}/{kind}/{key}")
            now = stamp(there)
            if known and known.stamp == now and known.whole >= whole:
                return known
            manifest = self._sound(self.root / kind / key, there, whole=whole)
        except (DamagedError, OSError) as error:
            self._note(self.root / kind / key, str(error))
            raise DamagedError(str(error)) from error
        return self._artifact(manifest, now, whole=whole or are_small(there))

    def _artifact(self, manifest: Manifest, now: str, *, whole: bool) -> Artifact:
        """What lies there with a manifest that was just read or written."""
        self._saw, measured = True, manifest.measured
        told = (manifest.digest, manifest.seal, bool(measured.get(FAILED)), now, whole, measured)
        return Artifact(self.root, manifest.kind, manifest.key, *told)

    def _sound(self, folder: Path, there: Found, *, whole: bool) -> Manifest:
        """The manifest of an artifact that is as it was written. Raises DamagedError."""
        manifest = read_manifest(folder)
        if manifest is None:
            raise DamagedError(f"{MANIFEST} is not what was written")
        if (manifest.kind, manifest.key) != (folder.parent.name, folder.name):
            raise DamagedError(f"it is {manifest.kind}/{manifest.key}")
        files = {name: stat for name, stat in there.items() if name != MANIFEST}
        if found := fault(folder, files, manifest.files, whole=whole):
            raise DamagedError(found)
        return manifest

    def _is_damaged(self, folder: Path) -> bool:
        """Whether what lies there was found damaged: another process may have made it again since."""
        return folder in self._damaged and self._damaged[folder] == _inode(folder)

    def _note(self, folder: Path, what: str) -> None:
        """Say that an artifact is damaged."""
        self._damaged[folder] = _inode(folder)
        found = read_manifest(folder)
        label = f" ({found.label})" if found and found.label else ""
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
        self._damaged.pop(folder, None)

    def scratch(self, key: str) -> Path:
        """Where an unfinished step keeps what it needs to go on after a kill, in a folder that it makes."""
        return self.root / WORK / key

    def begin(self, kind: str, key: str) -> Path:
        """Where to build a claimed artifact, in a folder that who builds it makes; what is damaged is set aside."""
        if self._is_damaged(self.root / kind / key):
            self._set_aside(self.root / kind / key)
        name = f"{kind}-{key}"
        for left in os.listdir(made_folder(self.root / NEW)):  # noqa: PTH208 (as paths they would cost more)
            if left.rpartition("-")[0] == name:  # by a run that was killed
                remove(self.root / NEW / left)
        return self.root / NEW / f"{name}-{secrets.token_hex(4)}"

    def finish(self, built: Path, manifest: Manifest, sealed: Sealed | None = None) -> Artifact:
        """Put what was built in its place; where nobody has `sealed` it as it lies there, that is done first.

        `manifest` has what making it measured. The step's scratch is dropped. What lies in a place stays there if the
        machine loses its power, once `sync` was called.
        """
        target = self.root / manifest.kind / manifest.key
        with full_disk_is_a_sentence(built / MANIFEST):
            found = files_in(built)
            if sealed is None or not sealed.fits(found):
                sealed = seal(built, manifest, manifest.measured)
                found = files_in(built)
            if os.path.lexists(target):  # verdicts that met an outage
                remove(target)
            made_folder(target.parent)
            built.rename(target)
            self._unsynced.add(target.parent)
        if os.path.lexists(self.root / WORK / manifest.key):
            remove(self.root / WORK / manifest.key)
        told = {"digest": sealed.digest, "seal": sealed.seal}
        return self._artifact(manifest.model_copy(update=told), stamp(found), whole=True)

    def keep_looks(self, artifacts: Iterable[Artifact]) -> None:
        """Leave for other processes what was found when artifacts were looked at, where they do not know it all."""
        if self._saw:
            self.looks.keep((each.kind, each.key, each.look) for each in artifacts)

    def sync(self) -> None:
        """Force it to the disk that what was finished is in its place."""
        while self._unsynced:
            sync(self._unsynced.pop())


def _inode(folder: Path) -> int:
    """Which of all folders that ever lay in a place lies there; 0 where none does."""
    try:
        return folder.lstat().st_ino
    except OSError:
        return 0


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, in all its depths."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
