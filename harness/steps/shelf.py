"""What the steps of a graph have left, in as many bytes for each as were set aside when it came into the graph.

A driver may be at work for weeks, on tens of thousands of steps: what it holds of them does not grow as they are
finished. All else of an artifact is read from its store when it is asked for.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from struct import Struct

from esft_bench.harness.steps.step import Step
from esft_bench.harness.store.artifacts import Artifact

FIELDS = Struct("? ? ? ? 10s 32s 32s 16s")
"""Whether it is there, finished, partial, and was read whole; its key, digest, seal and stamp."""
THERE, FINISHED = 0, 1
RECENT = 64
"""Artifacts that are held as they were asked for last."""


class Shelf(Mapping[Step, Artifact]):
    """The artifacts that are there, by step; `finished` are the steps of which nothing is left to do."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._places: dict[Step, int] = {}
        self._held = bytearray()
        self._recent: dict[Step, Artifact] = {}  # a training is asked for by each of its answers

    def make_room(self, step: Step) -> None:
        """A step came in, of which nothing is there."""
        self._places[step] = len(self._held)
        self._held.extend(bytes(FIELDS.size))

    def put(self, artifact: Artifact, step: Step, *, finished: bool) -> None:
        """A step has left this."""
        self._recent.pop(step, None)
        told = (artifact.key, artifact.digest, artifact.seal, artifact.stamp)
        flags = (True, finished, artifact.partial, artifact.whole)
        FIELDS.pack_into(self._held, self._places[step], *flags, *map(bytes.fromhex, told))

    def drop(self, step: Step) -> None:
        """What a step has left is not there any more."""
        self._recent.pop(step, None)
        FIELDS.pack_into(self._held, self._places[step], *(False,) * 4, *(b"",) * 4)

    @property
    def finished(self) -> Set[Step]:
        """The steps of which nothing is left to do, as they are at any time."""
        return _Finished(self)

    def is_finished(self, step: object) -> bool:
        """Whether nothing is left to do of a step."""
        return self._says(step, FINISHED)

    def _says(self, step: object, flag: int) -> bool:
        place = self._places.get(step)  # type: ignore[call-overload]
        return place is not None and self._held[place + flag] != 0

    def __contains__(self, step: object) -> bool:
        return self._says(step, THERE)

    def __getitem__(self, step: Step) -> Artifact:
        found = self._recent.get(step)
        if found is None:
            if len(self._recent) == RECENT:
                self._recent.clear()
            found = self._recent[step] = self._read(step)
        return found

    def _read(self, step: Step) -> Artifact:
        there, _, partial, whole, *told = FIELDS.unpack_from(self._held, self._places[step])
        if not there:
            raise KeyError(step)
        key, digest, seal, stamp = (each.hex() for each in told)
        return Artifact(self._root, step.kind, key, digest, seal, partial, stamp, whole)

    def __iter__(self) -> Iterator[Step]:
        return (step for step in self._places if step in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Finished(Set[Step]):
    """The finished steps of a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    @classmethod
    def _from_iterable(cls, steps: Iterable[Step]) -> Set[Step]:  # type: ignore[override]
        return set(steps)

    def __contains__(self, step: object) -> bool:
        return self._shelf.is_finished(step)

    def __iter__(self) -> Iterator[Step]:
        return filter(self._shelf.is_finished, self._shelf)

    def __len__(self) -> int:
        return sum(1 for _ in self)
