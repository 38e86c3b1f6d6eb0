"""The machines that a step is carried out on: its own and, where it takes more than that one has, others beside it."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

SHARDED = "ESFT_BENCH_SHARDED"
"""Environment variable: `1` where the processes of a training share one model, `0` where each holds a whole one (DDP).

Without it they share it on accelerators, and on processors do not.
"""

Call = Callable[[], Any]
"""What a machine is to do: something that can be sent there (pickled), and so can what it returns."""


class LostError(Exception):
    """A machine that worked on a step is gone, or what it did was ended: the step is to be begun again."""


class Machines(Protocol):
    """Machines that work on one step together; this process is on the first of them."""

    @property
    def count(self) -> int:
        """How many they are, with this one."""
        ...

    @property
    def address(self) -> str:
        """This machine's, as the others reach it."""
        ...

    def begin(self, calls: Sequence[Call]) -> Sequence[Future[Any]]:
        """Have each of the others do one thing; that of a machine which is lost raises LostError."""
        ...

    def end(self) -> None:
        """End at once what others still do."""
        ...


@dataclass(frozen=True)
class OneMachine:
    """No others."""

    count: int = 1
    address: str = "localhost"

    def begin(self, calls: Sequence[Call]) -> Sequence[Future[Any]]:
        """Nobody is there to do anything."""
        return []

    def end(self) -> None:
        """Nothing was begun."""


ALONE = OneMachine()


@dataclass(frozen=True)
class Crew:
    """So many processes that train together, equally many on each machine."""

    processes: int
    machines: Machines = ALONE

    @property
    def on_each(self) -> int:
        """The processes of one machine."""
        return self.processes // self.machines.count
