"""What happened during training: one file, `curves.jsonl`, beside the results, a line for each point of a curve."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from esft_bench.spec.results import write_text
from esft_bench.spec.strict import Strict

FILE = "curves.jsonl"


class Point(Strict):
    """One point of a learning curve.

    Attributes:
        method, method_title, task, task_title, seed: the cell.
        step: optimizer steps done, from 1.
        metric: `loss`, the mean loss over the supervised tokens of the step's batch; `validation_loss`, that over rows
            held out of the training data, where the suite measures it; or a benchmark's name, whose
            score 0–100 was measured after that step (only where the suite evaluates during training).
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
