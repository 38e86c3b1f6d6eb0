"""Learning curves, collected from the logs of finished trainings into `curves.jsonl`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esft_bench.harness.plan.paths import CellPath
from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.names import LOG
from esft_bench.spec import curves
from esft_bench.spec.curves import Point


def write(plan: Plan, graph: Graph, folder: Path) -> None:
    """Write the learning curves of a run's rows into its folder, once there is one."""
    points = [point for path in plan.paths.values() if path.cell.is_row for point in _points(plan, graph, path)]
    if points:
        curves.write(points, folder)


def _points(plan: Plan, graph: Graph, path: CellPath) -> Iterator[Point]:
    """A cell's points, the steps of its trainings counted on from one to the next; nothing while one is missing."""
    whole = path.training.whole
    done = 0
    for step in whole if all(step in graph.artifacts for step in whole) else ():
        log = _log(graph.artifacts[step].folder / LOG)
        for number, loss in enumerate(log.get("losses", []), start=1):
            yield _point(plan, path, done + number, "loss", loss)
        for number, loss in log.get("validation", []):
            yield _point(plan, path, done + number, "validation_loss", loss)
        done += len(log.get("losses", []))


def _log(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def _point(plan: Plan, path: CellPath, step: int, metric: str, value: float) -> Point:
    cell = path.cell
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
