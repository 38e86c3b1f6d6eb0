"""Learning curves, collected from the logs of finished trainings into `curves.jsonl`."""

import json
from collections.abc import Iterator
from pathlib import Path

from esft_bench.harness.plan import Cell, Plan
from esft_bench.spec import curves
from esft_bench.spec.curves import Point


def write(plan: Plan, folder: Path) -> None:
    """Write the curves of a run's cells into its folder, once there is one."""
    points = [point for cell in plan.cells for point in _points(plan, cell)]
    if points:
        curves.write(points, folder)


def _points(plan: Plan, cell: Cell) -> Iterator[Point]:
    """A cell's points, the steps of its trainings counted on from one to the next; nothing while one is missing."""
    found = [plan.keys.find(stage) for stage in plan.stage(cell).whole]
    done = 0
    for made in found if all(found) else ():
        assert made is not None
        path = made.folder / "log.json"
        log = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for step, loss in enumerate(log.get("losses", []), start=1):
            yield _point(plan, cell, done + step, "loss", loss)
        for step, loss in log.get("validation", []):
            yield _point(plan, cell, done + step, "validation_loss", loss)
        done += len(log.get("losses", []))


def _point(plan: Plan, cell: Cell, step: int, metric: str, value: float) -> Point:
    return Point(
        method=cell.method,
        method_title=plan.suite.title(cell.method),
        task=cell.task,
        task_title=" + ".join(plan.tasks[task].title for task in cell.tasks),
        seed=cell.seed,
        step=step,
        metric=metric,
        value=value,
    )
