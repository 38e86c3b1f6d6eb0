"""What an executor is to the scheduler."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from esft_bench.harness.steps.step import Job, Resources, Step
from esft_bench.harness.store.sealing import Sealed

TOGETHER = 64
"""So many steps may ask an engine for one model at a time."""
BATCHES = 64
"""So many steps may wait for a judge's batches at a time; a judge that answers at once takes one after another."""


@dataclass(frozen=True)
class Progressed:
    """A running step is `done` of `total`."""

    step: Step
    done: int
    total: int


@dataclass(frozen=True)
class Ended:
    """A step ended: what it measured, or one sentence on what went wrong (details are in the log).

    `fatal` errors would meet every other step too; `no_space` says that the disk is full. `sealed` is what it left,
    where that was synced and read and got its manifest where the step ran.
    """

    step: Step
    measured: dict[str, Any]
    error: str = ""
    fatal: bool = False
    no_space: bool = False
    sealed: Sealed | None = None


class Executor(Protocol):
    """Runs steps, beside each other as far as there is room."""

    def asks(self, step: Step) -> Resources:
        """What a step asks for on the machines at hand."""
        ...

    @property
    def states(self) -> Collection[str]:
        """The states that its engines hold; steps that ask for others, and else for the same, fit alike."""
        ...

    def fit(self, asked: Resources) -> int | None:
        """How well a step that asks for this fits what is held now, 0 best; None where there is no room for it."""
        ...

    def start(self, step: Step, job: Job) -> None:
        """Begin a step for which there is room."""
        ...

    def wait(self) -> Sequence[Progressed | Ended]:
        """What happened since the last call; waits a moment where nothing did."""
        ...

    def close(self) -> None:
        """End everything at once; what running steps keep for the next run stays in their scratch."""
        ...
