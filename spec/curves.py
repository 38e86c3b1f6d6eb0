"""What happened during training: one file, `curves.jsonl`, beside the results, a line for each point of a curve."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from esft_bench.spec.results import write_text
from esft_bench.spec.strict import Strict

FILE = "curves.jsonl"
LOSS, HELD_OUT_LOSS, SCORE, CONSISTENCY = "loss", "validation_loss", "score", "rc"
CONCENTRATION = "c-das@"
"""Names of metrics; the last one with its K behind it."""


class Point(Strict):
    """One point of a learning curve.

    Attributes:
        method, method_title, task, task_title, seed: the cell.
        step: optimizer steps done, from 1; 0 is before training.
        metric: `loss`, the mean loss over the supervised tokens of the step's batch; `validation_loss`, that over rows
            held out of the training data; `score`, 0–100, by the task's metric on such rows or on its benchmarks, where
            the suite looks at it; `c-das@K` and `rc`, the concentration of the domain advantage and the consistency of
            routing (expert-concentration paper, Equations 2 and 5), where the suite profiles during training.
        value: the number.
    """

    method: str
    method_title: str
    task: str
    task_title: str = ""
    seed: int
    step: int
    metric: str
    value: float


def write(points: Iterable[Point], folder: Path) -> None:
    """Write `curves.jsonl` into `folder`, beside and renamed."""
    write_text(folder / FILE, "".join(point.model_dump_json() + "\n" for point in points))


def read(folder: Path) -> list[Point]:
    """Read `curves.jsonl`; lines that cannot be read are skipped, and without the file there are none."""
    path = folder / FILE
    points: list[Point] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            points.append(Point.model_validate_json(line))
        except ValidationError:
            continue
    return points
