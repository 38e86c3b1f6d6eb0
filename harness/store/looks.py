"""What looks at artifacts have found, so that what nobody has touched since is not read again.

    store/.looks/KIND.json      what the looks of one process have found, for others

A look is known by its folder's stamp (see soundness), in which there are times that no program sets: whatever is
written after it is noticed. What a disk loses by itself is not, so other processes' looks are for those alone who ask
how far things are; who uses files has read them.
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from esft_bench.harness.store.notes import Notes
from esft_bench.spec.errors import UserError

LOOKS, NOTED = ".looks", "seen"


class Look(NamedTuple):
    """A look that found all sound: what of an artifact is known by it."""

    stamp: str
    digest: str
    seal: str
    partial: bool


class Looks:
    """The looks that other processes have noted, by kind and key, once they are recalled."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._notes = Notes(root / LOOKS)  # a damaged note costs a moment and is no news
        self._found: dict[str, dict[str, list[Any]]] = {}

    def at(self, kind: str, key: str) -> Look | None:
        """What was found under a key."""
        told = self._found.get(kind, {}).get(key)
        return Look(*told) if told else None

    def recall(self) -> None:
        """Go by the looks of other processes, too."""
        self._found = {path.stem: self._noted(path.stem) for path in self._notes.folder.glob("*.json")}

    def keep(self, looks: Iterable[tuple[str, str, Look]]) -> None:
        """Note looks by kind and key, beside those of others at what is still there, as far as one may."""
        ours: defaultdict[str, dict[str, list[Any]]] = defaultdict(dict)
        for kind, key, look in looks:
            ours[kind][key] = list(look)
        for kind, seen in ours.items():
            known = self._found.get(kind, {})
            if all(known.get(key) == told for key, told in seen.items()):
                continue
            with suppress(UserError, OSError):
                there = {path.name for path in (self._root / kind).iterdir()}
                both = (self._noted(kind) | seen).items()
                self._notes.write(kind, {NOTED: {key: told for key, told in both if key in there}})

    def _noted(self, kind: str) -> dict[str, list[Any]]:
        return dict((self._notes.read(kind) or {}).get(NOTED, {}))
