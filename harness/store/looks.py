"""What looks at artifacts have found, so that what nobody has touched since is not read again.

    store/.looks/KIND.json      what the looks of one process have found, for others

A look is known by its folder's stamp (see soundness), in which there are times that no program sets: whatever is
written after it is noticed. What a disk loses by itself is not, so other processes' looks are for those alone who ask
how far things are; who uses files has read them.
"""

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esft_bench.harness.store.notes import Notes
from esft_bench.spec.errors import UserError

LOOKS = ".looks"


@dataclass(frozen=True, slots=True)
class Look:
    """A look that found all sound: the stamp, whether large files were read too, and what of the manifest is kept."""

    stamp: str
    whole: bool
    digest: str
    seal: str
    measured: dict[str, Any]


class Looks:
    """The looks of this process, by kind and key."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._notes = Notes(root / LOOKS)  # a damaged note costs a moment and is no news
        self._found: defaultdict[str, dict[str, Look]] = defaultdict(dict)
        self._fresh: set[str] = set()

    def at(self, kind: str, key: str, stamp: str, *, whole: bool) -> Look | None:
        """What was found under a key when its folder had this stamp, if so much of it was read."""
        found = self._found[kind].get(key)
        return found if found and found.stamp == stamp and found.whole >= whole else None

    def add(self, kind: str, key: str, look: Look) -> None:
        """Something was looked at."""
        self._found[kind][key] = look
        self._fresh.add(kind)

    def forget(self, kind: str, key: str) -> None:
        """Read it again."""
        self._found[kind].pop(key, None)

    def recall(self) -> None:
        """Go by the looks of other processes, too."""
        for path in self._notes.folder.glob("*.json"):
            for key, told in self._noted(path.stem).items():
                self._found[path.stem].setdefault(key, Look(told[0], False, *told[1:]))

    def keep(self) -> None:
        """Note what was found, with what others have noted of artifacts that are still there, as far as one may."""
        for kind in self._fresh:
            ours = {key: [each.stamp, each.digest, each.seal, each.measured] for key, each in self._found[kind].items()}
            with suppress(UserError, OSError):
                there = {path.name for path in (self._root / kind).iterdir()}
                both = (self._noted(kind) | ours).items()
                self._notes.write(kind, {"looks": {key: told for key, told in both if key in there}})
        self._fresh.clear()

    def _noted(self, kind: str) -> dict[str, list[Any]]:
        return dict((self._notes.read(kind) or {}).get("looks", {}))
