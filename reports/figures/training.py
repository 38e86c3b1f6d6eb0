"""Figures over optimizer steps, from curves.jsonl: learning curves, and DAS Figure 1."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from esft_bench.reports.figures.canvas import Look, Missing, Picture, looks
from esft_bench.reports.scores import Scores
from esft_bench.spec.curves import Point
from esft_bench.spec.routing import Routing, Shift

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS = "loss"
CONCENTRATION = re.compile(r"c[-_]?das@?\d*", re.IGNORECASE)
"""A metric of curves.jsonl that is no score: cumulated domain advantage of a layer's first experts."""

Series = dict[str, list[tuple[int, float, float, float]]]
"""(step, mean, lowest, highest) by row."""

NO_CURVES = "the run has no curves.jsonl"


def learning_curves(scores: Scores, points: Sequence[Point]) -> list[Picture | Missing]:
    """The training loss of every task and, where it was measured on the way, the score."""
    title = "Learning curves"
    losses = [point for point in points if point.metric == LOSS]
    if not losses:
        return [Missing(title, NO_CURVES if not points else "curves.jsonl holds no training loss")]
    figures: list[Picture | Missing] = [
        _by_task(scores, losses, "learning-curves", f"{title}: training loss", _LOSS_CAPTION, "loss")
    ]
    measured = [point for point in points if point.metric == point.task]
    if measured:
        figures.append(
            _by_task(scores, measured, "learning-curves-score", f"{title}: score on the task", _SCORE_CAPTION, "score")
        )
    return figures


_LOSS_CAPTION = (
    "Mean loss over the supervised tokens of the batches so far in each twentieth of training, task and alignment data "
    "mixed: mean over seeds, band from the lowest to the highest. A lower loss is not a higher score: see Table 1."
)
_SCORE_CAPTION = "Score (0–100) on the task's items during training: mean over seeds, band from lowest to highest."


def advantage(scores: Scores, points: Sequence[Point], known: Routing | None) -> Picture | Missing:
    """DAS Figure 1: concentration over steps; chosen experts against random and unrelated ones."""
    title = "Domain experts against others (DAS Figure 1)"
    panels = [*_concentration(scores, points, known), *_against_others(scores, points)]
    if not panels:
        return Missing(
            title,
            "no row with curves was trained beside random or unrelated experts, and routing was not measured after "
            "training, so there is no C-DAS",
        )
    style, titles = looks([row.name for row in scores.rows]), {row.name: row.title for row in scores.rows}
    rows = [
        (panel, name, titles.get(name, name), *point)
        for panel, lines in panels
        for name in lines
        for point in lines[name]
    ]

    def paint(axes: Sequence["Axes"]) -> None:
        for panel, (label, lines) in zip(axes, panels, strict=True):
            _lines(panel, lines, style, titles)
            panel.set_title(label)
        axes[-1].set_xlabel("step")

    series = {name for _, lines in panels for name in lines}
    return Picture(
        "das-1-advantage",
        title,
        "C-DAS@k: gate weight on the task minus that on general data, of the k experts of a layer where this is "
        "highest, mean over layers; after training still against general data before it. Loss or score: rows that "
        "choose experts and rows that train as many random or unrelated ones. Mean over tasks and seeds, band from "
        "the lowest to the highest cell.",
        ("panel", "method", "title", "step", "mean", "min", "max"),
        rows,
        paint,
        height=2.7 * len(panels) + 0.5 + 0.22 * ((len(series) + 1) // 2),
        panels=len(panels),
    )


Panel = tuple[str, Series]


def _concentration(scores: Scores, points: Sequence[Point], known: Routing | None) -> list[Panel]:
    """C-DAS over steps where it was measured on the way, else before and after training."""
    measured = [point for point in points if CONCENTRATION.fullmatch(point.metric)]
    if measured:
        return [(f"{measured[0].metric}, mean over tasks", _series(measured, smooth=False))]
    first = {one.task: one for one in known.profiles if one.sample == 0} if known else {}
    general = first.get(str(scores.suite.get("alignment") or ""))
    if known is None or general is None:
        return []
    last = _steps(scores)
    cells = [
        point
        for one in known.shifts
        if one.task in first
        for step, gate in ((0, first[one.task].gate), (last, one.gate))
        for point in [_cell(one, step, c_das(gate, general.gate, known.top_k))]
    ]
    return [(f"C-DAS@{known.top_k}, mean over tasks", _series(cells, smooth=False))] if cells else []


def c_das(domain: Sequence[Sequence[float]], general: Sequence[Sequence[float]], k: int) -> float:
    """Mean over layers of the k highest differences of gate weight between a domain and general data."""
    difference = np.asarray(domain, dtype=float) - np.asarray(general, dtype=float)
    return float(np.sort(difference, axis=1)[:, -k:].sum(axis=1).mean())


def _cell(one: Shift, step: int, value: float) -> Point:
    return Point(
        method=one.method,
        method_title=one.method_title,
        task=one.task,
        seed=one.seed,
        step=step,
        metric="c-das",
        value=value,
    )


def _steps(scores: Scores) -> int:
    """The steps of training, 1 where the suite does not say."""
    training = scores.suite.get("training")
    steps = training.get("steps") if isinstance(training, Mapping) else None
    return steps if isinstance(steps, int) else 1


def _against_others(scores: Scores, points: Sequence[Point]) -> list[Panel]:
    """Score over steps (loss where it was not measured) of rows that are ablated, and of their ablations."""
    members = {name for family in _families(scores) for name in family}
    trained = [point for point in points if point.method in members]
    scored = [point for point in trained if point.metric == point.task]
    lost = [point for point in trained if point.metric == LOSS]
    if scored:
        return [("Score on the task, mean over tasks", _series(scored, smooth=False))]
    return [("Training loss, mean over tasks", _series(lost, smooth=True))] if lost else []


def _by_task(scores: Scores, points: Sequence[Point], name: str, title: str, caption: str, label: str) -> Picture:
    """A panel for each task, a line for each row."""
    names = [row.name for row in scores.rows]
    titles = {row.name: row.title for row in scores.rows}
    columns = {column.name: column.title for column in scores.columns("ability")}
    columns |= {point.task: point.task_title for point in points if point.task_title}
    style = looks([*names, *(point.method for point in points)])
    tasks = [task for task in columns if any(point.task == task for point in points)]
    tasks += [task for task in dict.fromkeys(point.task for point in points) if task not in tasks]
    panels = {task: _series([p for p in points if p.task == task], smooth=label == "loss") for task in tasks}
    rows = [
        (columns.get(task, task), method, titles.get(method, method), *values)
        for task, lines in panels.items()
        for method in lines
        for values in lines[method]
    ]

    def paint(axes: Sequence["Axes"]) -> None:
        for panel, task in zip(axes, tasks, strict=True):
            _lines(panel, panels[task], style, titles)
            panel.set_title(columns.get(task, task))
            panel.set_ylabel(label)
        axes[-1].set_xlabel("step")

    series = {name for lines in panels.values() for name in lines}
    return Picture(
        name,
        title,
        caption,
        ("task", "method", "title", "step", "mean", "min", "max"),
        rows,
        paint,
        height=2.0 * len(tasks) + 0.5 + 0.22 * ((len(series) + 1) // 2),
        panels=len(tasks),
    )


def _series(points: Sequence[Point], *, smooth: bool) -> Series:
    """Each row's curve: mean over its cells with the lowest and highest; a loss in twentieths of training."""
    cells: dict[str, dict[tuple[str, int], dict[int, float]]] = {}
    for point in points:
        cells.setdefault(point.method, {}).setdefault((point.task, point.seed), {})[point.step] = point.value
    return {method: _over_cells([_binned(c) if smooth else c for c in own.values()]) for method, own in cells.items()}


def _binned(curve: Mapping[int, float]) -> dict[int, float]:
    """Means over a twentieth of the steps each, at its last step."""
    last = max(curve)
    size = max(1, last // 20)
    bins: dict[int, list[float]] = {}
    for step, value in curve.items():
        bins.setdefault(min(-(-step // size) * size, last), []).append(value)
    return {step: float(np.mean(values)) for step, values in sorted(bins.items())}


def _over_cells(curves: Sequence[Mapping[int, float]]) -> list[tuple[int, float, float, float]]:
    """Mean, lowest and highest at each step that every cell has: a cell that stopped early moves no mean."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    stacked = [[curve[step] for curve in curves] for step in steps]
    return [(step, float(np.mean(v)), min(v), max(v)) for step, v in zip(steps, stacked, strict=True)]


def _lines(panel: "Axes", lines: Series, style: Mapping[str, Look], titles: Mapping[str, str]) -> None:
    for name in [name for name in style if name in lines]:
        values, look = lines[name], style[name]
        steps, mean, low, high = ([value[k] for value in values] for k in range(4))
        panel.fill_between(steps, low, high, color=look.colour, alpha=0.12, linewidth=0)
        every = max(1, len(steps) // 6)
        label = titles.get(name, name)
        panel.plot(
            steps, mean, color=look.colour, linestyle=look.dash, marker=look.marker, markevery=every, label=label
        )


def _families(scores: Scores) -> list[list[str]]:
    """A row that is ablated, with its ablations."""
    names = [row.name for row in scores.rows]
    return [
        [name, *(row.name for row in scores.rows if row.ablates == name)]
        for name in names
        if any(row.ablates == name for row in scores.rows)
    ]
