"""What tuning tried: one file, `tuning.jsonl`, beside the results, a line for each trial."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from esft_bench.spec.results import write_text
from esft_bench.spec.strict import Strict

FILE = "tuning.jsonl"
Ended = Literal["inside", "low", "high"]
"""Where in its bracket a chosen learning rate lies."""


class TrialRecord(Strict):
    """One trial of one row on one task.

    Attributes:
        backbone, method, method_title, task, task_title: what was tuned.
        number: of the trial within its search, from 0.
        learning_rate, hyperparameters: what was tried.
        steps, losses: how far it came, rung by rung: optimizer steps, and after them the mean loss over the supervised
            tokens of rows held out of the task's training data, in nats; None where the training diverged.
        state: `finished` the last rung, `stopped` before it for its loss, or `diverged`.
        chosen: whether its values are those that the row's cells were trained with.
        ended: where the chosen rate lies among those that came as far: `inside`, or at an end, `low` or `high`.
    """

    backbone: str
    method: str
    method_title: str
    task: str
    task_title: str = ""
    number: int
    learning_rate: float
    hyperparameters: dict[str, Any]
    steps: list[int]
    losses: list[float | None]
    state: Literal["finished", "stopped", "diverged"]
    chosen: bool = False
    ended: Ended = "inside"


def write(trials: Iterable[TrialRecord], folder: Path) -> None:
    """Write `tuning.jsonl` into `folder`, beside and renamed."""
    write_text(folder / FILE, "".join(trial.model_dump_json() + "\n" for trial in trials))


def read(folder: Path) -> list[TrialRecord]:
    """Read `tuning.jsonl`; lines that cannot be read are skipped, and without the file there are none."""
    path = folder / FILE
    trials: list[TrialRecord] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            trials.append(TrialRecord.model_validate_json(line))
        except ValidationError:
            continue
    return trials
