"""Figures over optimizer steps, from curves.jsonl: learning curves, and DAS Figures 1 and 5."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from esft_bench.reports.backbone_results import BackboneResults, TableRow
from esft_bench.reports.figures.canvas import Look, Missing, Picture, looks
from esft_bench.reports.training_curves import Series, series
from esft_bench.spec.curves import CONCENTRATION, CONSISTENCY, LOSS, SCORE, Point
from esft_bench.spec.routing import Routing, Shift

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOWEST = "lowest"
"""A hyperparameter of rows that train the experts which are least the domain's own."""
SCORED = "Score while training, mean over tasks"
NO_CURVES = "the run has no curves.jsonl"


def learning_curves(results: BackboneResults, points: Sequence[Point]) -> list[Picture | Missing]:
    """The training loss of every task and, where it was measured on the way, the score."""
    title = "Learning curves"
    losses = [point for point in points if point.metric == LOSS]
    if not losses:
        return [Missing(title, NO_CURVES if not points else "curves.jsonl holds no training loss")]
    figures: list[Picture | Missing] = [
        _by_task(results, losses, "learning-curves", (f"{title}: training loss", _loss_caption(results)))
    ]
    measured = [point for point in points if point.metric == SCORE]
    if measured:
        words = (f"{title}: score", f"{_scored_on(results)}: mean over seeds, band from the lowest to the highest.")
        figures.append(_by_task(results, measured, "learning-curves-score", words))
    return figures


def _loss_caption(results: BackboneResults) -> str:
    training, alignment = results.suite.training, results.suite.alignment
    mixed = ", task and alignment data mixed" if alignment and training.alignment_share else ""
    return (
        f"Mean loss over the supervised tokens of the batches so far in each twentieth of training{mixed}: mean over "
        "seeds, band from the lowest to the highest. A lower loss is not a higher score: see Table 1."
    )


def _scored_on(results: BackboneResults) -> str:
    """What the score during training is."""
    training = results.suite.training
    if training.evaluate_on == "benchmark":
        return "Score (0–100) during training on the benchmarks of the task, which are the test"
    return (
        f"Score (0–100) during training by the task's own metric, on {training.validation_items} rows held out of its "
        "training data; where a judge scores the task, likeness to the reference (chrF)"
    )


def consistency(points: Sequence[Point]) -> Picture | None:
    """DAS Figure 5 over steps; None where routing was not measured on the way."""
    lines = series([point for point in points if point.metric == CONSISTENCY], smooth=False)
    if not lines:
        return None
    titles = {point.method: point.method_title for point in points}
    style = looks(list(lines))

    def paint(axes: Sequence["Axes"]) -> None:
        _lines(axes[0], lines, style, titles)
        axes[0].set_ylabel("RC")
        axes[0].set_xlabel("step")

    return Picture(
        "das-5-routing-consistency",
        "Routing consistency over steps (DAS Figure 5)",
        "RC (Equation 5): squared change of an expert's average routing score since before training, on the cell's own "
        "task, mean over experts and layers: mean over a row's cells, band from the lowest to the highest.",
        ("method", "title", "step", "mean", "min", "max"),
        [(name, titles[name], *values) for name in lines for values in lines[name]],
        paint,
        height=3.4 + 0.22 * ((len(lines) + 1) // 2),
    )


def advantage(results: BackboneResults, points: Sequence[Point], known: Routing | None) -> Picture | Missing:
    """DAS Figure 1: concentration over steps; chosen experts against random and unrelated ones."""
    title = "Domain experts against others (DAS Figure 1)"
    panels = [*_concentration(results, points, known), *_against_others(results, points)]
    if not panels:
        return Missing(
            title,
            "no row with curves was trained beside random or unrelated experts, and routing was not measured after "
            "training, so there is no C-DAS",
        )
    style, titles = looks([row.name for row in results.rows]), {row.name: row.title for row in results.rows}
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
            if label == SCORED:
                _from_zero(panel)
        axes[-1].set_xlabel("step")

    drawn = {name for _, lines in panels for name in lines}
    return Picture(
        "das-1-advantage",
        title,
        "C-DAS@k (Equation 2): the share of a layer's positive domain advantage that its k highest experts hold, "
        "summed over layers; over steps the advantage is that of the model at the step, before and after training both "
        "are against the general data before it. Loss or score: rows that "
        "choose experts and rows that train as many random or unrelated ones. Mean over tasks and seeds, band from "
        "the lowest to the highest cell.",
        ("panel", "method", "title", "step", "mean", "min", "max"),
        rows,
        paint,
        height=2.7 * len(panels) + 0.5 + 0.22 * ((len(drawn) + 1) // 2),
        panels=len(panels),
    )


Panel = tuple[str, Series]


def _concentration(results: BackboneResults, points: Sequence[Point], known: Routing | None) -> list[Panel]:
    """C-DAS over steps where it was measured on the way, else before and after training."""
    measured = [point for point in points if point.metric.startswith(CONCENTRATION)]
    if measured:
        return [(f"{measured[0].metric.upper()}, mean over tasks", series(measured, smooth=False))]
    cells = [
        _cell(one, step, value)
        for one in (known.shifts if known else [])
        if one.advantage is not None
        for step, value in zip((0, _steps(results, one.method)), one.advantage, strict=True)
    ]
    return [(f"C-DAS@{known.top_k}, mean over tasks", series(cells, smooth=False))] if known and cells else []


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


def _steps(results: BackboneResults, method: str) -> int:
    """A row's steps of training."""
    known = method in results.suite.methods
    return results.suite.steps(method) if known else results.suite.training.steps


def _against_others(results: BackboneResults, points: Sequence[Point]) -> list[Panel]:
    """Score over steps (loss where it was not measured) of rows that are ablated, and of their ablations."""
    members = {name for family in _families(results) for name in family}
    trained = [point for point in points if point.method in members]
    scored = [point for point in trained if point.metric == SCORE]
    lost = [point for point in trained if point.metric == LOSS]
    if scored:
        return [(SCORED, series(scored, smooth=False))]
    return [("Training loss, mean over tasks", series(lost, smooth=True))] if lost else []


def _by_task(results: BackboneResults, points: Sequence[Point], name: str, words: tuple[str, str]) -> Picture:
    """A panel for each task, a line for each row; `words` are title and caption."""
    titles = {row.name: row.title for row in results.rows}
    loss = points[0].metric == LOSS
    columns = {column.name: column.title for column in results.columns("ability")}
    columns |= {point.task: point.task_title for point in points if point.task_title}
    style = looks([*titles, *(point.method for point in points)])
    tasks = [task for task in columns if any(point.task == task for point in points)]
    tasks += [task for task in dict.fromkeys(point.task for point in points) if task not in tasks]
    panels = {task: series([p for p in points if p.task == task], smooth=loss) for task in tasks}
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
            panel.set_ylabel("loss" if loss else "score")
            if not loss:
                _from_zero(panel)
        axes[-1].set_xlabel("step")

    drawn = {name for lines in panels.values() for name in lines}
    return Picture(
        name,
        *words,
        ("task", "method", "title", "step", "mean", "min", "max"),
        rows,
        paint,
        height=2.0 * len(tasks) + 0.5 + 0.22 * ((len(drawn) + 1) // 2),
        panels=len(tasks),
    )


def _from_zero(panel: "Axes") -> None:
    """A score's axis: it begins at 0, and ends above it where no score does."""
    panel.set_ylim(0, max(1.0, panel.get_ylim()[1]))


def _lines(panel: "Axes", lines: Series, style: Mapping[str, Look], titles: Mapping[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for name in [name for name in style if name in lines]:
        values, look = lines[name], style[name]
        steps, mean, low, high = ([value[k] for value in values] for k in range(4))
        panel.fill_between(steps, low, high, color=look.colour, alpha=0.12, linewidth=0)
        every = max(1, len(steps) // 6)
        label = titles.get(name, name)
        panel.plot(
            steps, mean, color=look.colour, linestyle=look.dash, marker=look.marker, markevery=every, label=label
        )


def _families(results: BackboneResults) -> list[list[str]]:
    """A row with its ablations, and with the row that takes the experts it would take last."""
    rows = results.rows
    others = {row.name: [other.name for other in rows if _other_experts(results, row, other)] for row in rows}
    return [[name, *found] for name, found in others.items() if found]


def _other_experts(results: BackboneResults, row: TableRow, other: TableRow) -> bool:
    """Whether a row is another one but for the experts it trains: drawn at random, or those of the lowest scores."""
    if other.ablates:
        return other.ablates == row.name
    known = results.suite.methods
    if row.name not in known or other.name not in known:
        return False
    method, own, rate = results.suite.row(row.name)
    return not own.get(LOWEST) and results.suite.row(other.name) == (method, {**own, LOWEST: True}, rate)
