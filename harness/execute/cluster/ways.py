"""How a cluster is used, and what a run says to its executor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esft_bench.harness.execute.cluster.node import Lend, lend
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.steps.step import Step


@dataclass(frozen=True)
class Ways:
    """How a cluster is used; nothing here changes a result.

    Attributes:
        gpus: how many accelerators a step takes, where there are any.
        lend: makes what steps borrow of an engine.
        patience: seconds after which a step that says nothing is taken to hang, or a cluster without room to be gone.
        tries: so often a step is tried in vain.
        head_answers: seconds in which the cluster's head must say which nodes are alive.
    """

    gpus: Callable[[Step], int] = lambda step: step.resources.gpus
    lend: Lend = lend
    patience: float = 3600.0
    tries: int = 4
    head_answers: float = 40.0


@dataclass(frozen=True)
class Told:
    """What a run says to its executor: the folder for logs, the judges, and whether these take batches."""

    folder: Path
    judges: Panel
    batches: bool
