"""The first figure: what each row gains on a task against what it forgets, over its learning rates or steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esft_bench.reports.backbone_report import BackboneReport
from esft_bench.reports.figures.canvas import INK, Look, Missing, Picture, looks
from esft_bench.reports.gain_curves import Measure
from esft_bench.reports.statistics.equal_gain import ALL_TASKS, Curves
from esft_bench.reports.statistics.error import Array
from esft_bench.reports.statistics.paired import PairedDifference, paired_difference
from esft_bench.spec.curve import Along

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Gain against forgetting"
COLUMNS = (
    "task",
    "method",
    "title",
    "rate",
    "gain",
    "gain_low",
    "gain_high",
    "forgetting",
    "forgetting_low",
    "forgetting_high",
)
PANEL = 2.4
"""Inches that a panel is high."""
HIGH = 30.0
"""Points: where all rows gain more than this, the panel begins below the lowest of them and not at 0."""


@dataclass(frozen=True)
class Point:
    """A row on a task at a multiple of its rate: what it gained and lost against the base model."""

    rate: float
    gain: PairedDifference
    loss: PairedDifference


def gain_curve(report: BackboneReport) -> Picture | Missing:
    """Task ability gained over general ability lost, a panel a task and one for their mean, a line a row."""
    seen = report.equal_gain
    measure = next((one for one in seen.measures if one.name in seen.curves), None)
    if measure is None:
        return Missing(
            TITLE, "no row has been trained and tested whole beside the base model, or nothing measures forgetting"
        )
    curves = seen.curves[measure.name]
    rates = report.results.rates
    titles = {row.name: row.title for row in report.results.rows}
    style = looks(list(titles))
    panels = [*curves.tasks, *([ALL_TASKS] if len(curves.tasks) > 1 else [])]
    found = {
        task: {row: points for row in curves.rows if (points := list(_points(curves, row, task, rates)))}
        for task in panels
    }
    across = 2 if len(panels) > 1 else 1

    def paint(axes: Sequence["Axes"]) -> None:
        for place, (task, panel) in enumerate(zip(panels, axes, strict=True)):
            for row, points in found[task].items():
                _draw(panel, points, style[row], titles[row])
            if task in seen.at:
                panel.axhline(seen.at[task][0], color=INK, linewidth=0.8, linestyle="--")
            panel.axvline(0, color=INK, linewidth=0.8, linestyle=":")
            lowest = min((one.gain.low for points in found[task].values() for one in points), default=0.0)
            panel.set_ylim(bottom=min(0.0, lowest) if lowest < HIGH else lowest - 5)
            panel.set_title(seen.title(task) if task else "Mean over tasks")
            if place >= len(panels) - across:
                panel.set_xlabel(f"Lost, {measure.unit}")
            if place % across == 0:
                panel.set_ylabel("Gained, points")

    return Picture(
        "gain-against-forgetting",
        TITLE,
        _caption(measure, report.results.suite.curve.along if seen.is_curve else None),
        COLUMNS,
        [_line(task, row, titles[row], point) for task in panels for row in found[task] for point in found[task][row]],
        paint,
        height=PANEL * -(-len(panels) // across) + 0.5 + 0.22 * len(curves.rows) / 2,
        panels=len(panels),
        across=across,
    )


def _caption(measure: Measure, along: Along | None) -> str:
    line = (
        f"A line a row, from the base model (0, 0) over the multiples of its {along} that were trained. "
        "Dashed: the gain at which the first table reads the curves."
        if along
        else "One point a row: each was trained at one learning rate."
    )
    return (
        f"{measure.title} lost against task ability gained, both against the base model and paired, with 95% "
        f"intervals; up and left is better. {line}"
    )


def _points(curves: Curves, row: str, task: str, rates: Sequence[float]) -> Iterator[Point]:
    """A row's points on a task, or on the mean over tasks; none where one is missing."""
    k = list(curves.rows).index(row)
    places = [list(curves.tasks).index(task)] if task else list(range(len(curves.tasks)))
    for number, rate in enumerate(rates, start=1):
        gain = _difference([curves.gains[t][k, number] for t in places], shared=False)
        of_benchmarks = [np.concatenate([loss[t, k, number] for t in places]) for loss in curves.losses]
        loss = _difference(of_benchmarks, shared=True)
        if gain is None or loss is None:
            return
        yield Point(rate, gain, loss)


def _difference(arrays: Sequence[Array], *, shared: bool) -> PairedDifference | None:
    """The paired difference to the base model; None where a task is missing."""
    if not all(np.isfinite(array).any() for array in arrays):
        return None
    return paired_difference(list(arrays), shared_runs=shared)


def _draw(panel: "Axes", points: Sequence[Point], look: Look, title: str) -> None:
    """A row's line, with both intervals of each point."""
    for point in points:
        x, y = point.loss.estimate, point.gain.estimate
        for ends in (([point.loss.low, point.loss.high], [y, y]), ([x, x], [point.gain.low, point.gain.high])):
            panel.plot(*ends, color=look.colour, linewidth=0.8, alpha=0.5)
    lost, gained = ([0.0, *(getattr(point, side).estimate for point in points)] for side in ("loss", "gain"))
    one = slice(None) if len(points) > 1 else slice(1, None)
    panel.plot(
        lost[one],
        gained[one],
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markersize=5,
        linewidth=1.5,
        label=title,
    )


def _line(task: str, row: str, title: str, point: Point) -> tuple[object, ...]:
    gain, loss = point.gain, point.loss
    sides = (gain.estimate, gain.low, gain.high, loss.estimate, loss.low, loss.high)
    return (task or "mean", row, title, point.rate, *sides)
