"""Attempts at steps: where they run, how far they are, and when one that was lost is not made again."""

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from esft_bench.harness.execute.cluster.engines import Engine
from esft_bench.harness.execute.cluster.room import Need, Room
from esft_bench.harness.execute.sharing import Work
from esft_bench.harness.steps.step import Step


@dataclass(eq=False)
class Attempt:
    """One order at work.

    Attributes:
        token: its number.
        work: the steps, which run together or, mostly, the one.
        need: what it takes of the room itself; None where it is an engine's that does.
        engine: the engine it was given to.
        node: the node on which it began; empty before it did.
        process: the process there.
        heard: when it was last heard of, by the monotonic clock.
        done: how far each step is, by its place.
        why: why it was given up, where it was.
    """

    token: int
    work: Work
    need: Need | None = None
    engine: Engine | None = None
    node: str = ""
    process: int = 0
    heard: float = field(default_factory=time.monotonic)
    done: Counter[int] = field(default_factory=Counter)
    why: str = ""

    @property
    def place(self) -> str:
        """The node on which it is, or its engine that began nothing of it yet; empty where none is known."""
        return self.node or (self.engine.node if self.engine else "")

    def begun_on(self, node: str, process: int) -> None:
        """It has begun on a node."""
        self.node, self.process = node, process
        if self.engine:
            self.engine.node = node

    def silent_for(self) -> float:
        """Seconds since it was heard of; none while it waits for its turn."""
        return time.monotonic() - self.heard if self.node else 0.0

    def lost_with(self, alive: Collection[str], room: Room) -> str:
        """Why it is lost where these nodes are alive, by name; empty where it is not."""
        if self.place:
            return "" if self.place in alive else "its node is gone"
        return "what it waited for is gone" if room.short else ""

    def hopeless(self, patience: float, room: Room, alone: bool) -> str:
        """Why it is to be given up after so many seconds of patience; empty where it is not.

        `alone`: nothing of ours is at work that could end and so make room for it.
        """
        if self.silent_for() > patience:
            return f"it said nothing for {patience / 60:.0f} minutes"
        if self.node or self.need is None:
            return ""
        if not room.could_have(self.need):
            return "what it waited for is gone"
        if alone and self.need.machines > 1 and time.monotonic() - self.heard > patience:
            return "others keep the nodes that it waits for"
        return ""


class Tries:
    """How often steps were tried in vain; one that got further than ever before was not in vain."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._vain: Counter[Step] = Counter()
        self._furthest: Counter[Step] = Counter()

    def lost(self, attempt: Attempt) -> None:
        """An attempt was lost."""
        for place, (step, _) in enumerate(attempt.work):
            got_on = attempt.done[place] > self._furthest[step]
            self._furthest[step] = max(self._furthest[step], attempt.done[place])
            self._vain[step] = 1 if got_on else self._vain[step] + 1

    def exhausted(self, step: Step) -> bool:
        """Whether a step has been tried often enough."""
        return self._vain[step] >= self._most

    def forget(self, step: Step) -> None:
        """A step is over."""
        self._vain.pop(step, None)
        self._furthest.pop(step, None)
