"""Learning curves, collected from the logs of finished trainings into `curves.jsonl`."""

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from esft_bench.harness.plan.paths import CellPath
from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.names import LOG
from esft_bench.harness.training.tracked import Tracked
from esft_bench.methods.moe.routing import concentrated, moved
from esft_bench.spec import curves
from esft_bench.spec.curves import CONCENTRATION, CONSISTENCY, HELD_OUT_LOSS, LOSS, SCORE, Point


def write(plan: Plan, graph: Graph, folder: Path) -> None:
    """Write the learning curves of a run's rows into its folder, once there is one."""
    points = (point for path in plan.paths.values() if path.cell.is_row for point in _points(plan, graph, path))
    if (first := next(points, None)) is not None:
        curves.write(chain([first], points), folder)


def _points(plan: Plan, graph: Graph, path: CellPath) -> Iterator[Point]:
    """A cell's points, the steps of its trainings counted on from one to the next; nothing while one is missing."""
    whole = path.training.whole
    if not all(step in graph.artifacts for step in whole):
        return
    done = 0
    start: Tensor | None = None
    for step in whole:
        folder = graph.artifacts[step].folder
        log = _log(folder / LOG)
        own = step.tasks == path.training.tasks
        for name, pairs in _measured(log, scored=own).items():
            yield from (_point(plan, path, done + number, name, value) for number, value in pairs)
        tracked = Tracked.load(folder)
        # Each training begins where the one before it ended; those on other tasks have routing of other data.
        for number, scores in tracked.points[bool(done) :] if own and not path.cell.after else []:
            start = scores[0] if start is None else start
            for name, value in _routing(scores, start, tracked.top_k).items():
                yield _point(plan, path, done + number, name, value)
        done += len(log.get("losses", []))


def _measured(log: Mapping[str, Any], *, scored: bool) -> dict[str, list[tuple[int, float]]]:
    """The curves in a training's log; scores of other tasks than the cell's own are left out."""
    found = {LOSS: list(enumerate(log.get("losses", []), start=1)), HELD_OUT_LOSS: log.get("validation", [])}
    return found | ({SCORE: log.get("scores", [])} if scored else {})


def _routing(scores: Tensor, start: Tensor, top_k: int) -> dict[str, float]:
    """RC since the `start` [L, E] and, where general data were measured too, C-DAS of what routing is, [K, L, E]."""
    found = {CONSISTENCY: float(moved(start, scores[0]).mean())}
    if len(scores) > 1:
        found[f"{CONCENTRATION}{top_k}"] = float(concentrated(scores[0] - scores[1], top_k).sum())
    return found


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
