"""The figure of tuning: each row's loss on held-out rows over its learning rates, task by task."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from esft_bench.reports.backbone_results import BackboneResults
from esft_bench.reports.figures.canvas import Look, Missing, Picture, looks, plain_log
from esft_bench.spec.trials import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Tuning: loss over learning rates"
CAPTION = (
    "Mean loss, in nats a token, on rows held out of the task's training data. Faint: all trials, after the first "
    "rung's steps; a cross marks those that were stopped there, or diverged. Strong: those that went on to the last "
    "rung. The ring is the rate chosen; an arrow beside it says that none farther on that side took as many."
)
COLUMNS = ("task", "method", "title", "trial", "learning_rate", "steps", "loss", "state", "chosen", "ended")


def tuning_curves(results: BackboneResults, trials: Sequence[TrialRecord]) -> Picture | Missing:
    """A panel for each task, a curve for each row."""
    tasks = {trial.task: trial.task_title or trial.task for trial in trials}
    if not tasks:
        return Missing(TITLE, "no learning rate was searched for")
    titles = {row.name: row.title for row in results.rows}
    names = list(dict.fromkeys(trial.method for trial in trials))
    style = looks([*titles, *names])

    def paint(axes: Sequence["Axes"]) -> None:
        for panel, (task, title) in zip(axes, tasks.items(), strict=True):
            _panel(panel, [trial for trial in trials if trial.task == task], style, titles)
            panel.set_title(title)
            panel.set_ylabel("held-out loss")
        axes[-1].set_xlabel("learning rate")

    rows = [line for trial in trials for line in _lines(trial, titles)]
    height = 2.4 * len(tasks) + 0.5 + 0.22 * ((len(names) + 1) // 2)
    return Picture("tuning", TITLE, CAPTION, COLUMNS, rows, paint, height=height, panels=len(tasks))


def _lines(trial: TrialRecord, titles: Mapping[str, str]) -> list[tuple[object, ...]]:
    """A trial's losses as lines of the CSV."""
    about = (trial.task, trial.method, titles.get(trial.method, trial.method_title), trial.number, trial.learning_rate)
    losses = zip(trial.steps, trial.losses, strict=True)
    return [
        (*about, steps, "" if loss is None else loss, trial.state, int(trial.chosen), trial.ended)
        for steps, loss in losses
    ]


def _panel(panel: "Axes", trials: Sequence[TrialRecord], style: Mapping[str, Look], titles: Mapping[str, str]) -> None:
    """The curves of one task."""
    for name in (name for name in style if any(trial.method == name for trial in trials)):
        own = [trial for trial in trials if trial.method == name]
        _curve(panel, own, style[name], titles.get(name, own[0].method_title))
    plain_log(panel)
    plain_log(panel, "y")


def _curve(panel: "Axes", trials: Sequence[TrialRecord], look: Look, label: str) -> None:
    """A row's trials: faint after the first rung, strong after the last, with its choice marked."""
    colour, steps = look.colour, sorted({count for trial in trials for count in trial.steps})
    if len(steps) > 1:
        panel.plot(*_points(trials, steps[0]), color=colour, linestyle=look.dash, linewidth=1, alpha=0.45)
    stopped = [trial for trial in trials if trial.state != "finished"]
    panel.plot(*_points(stopped, steps[0]), color=colour, marker="x", linestyle="", markersize=5, alpha=0.7)
    panel.plot(*_points(trials, steps[-1]), color=colour, linestyle=look.dash, marker=look.marker, label=label)
    for trial in trials:
        rate, loss = trial.learning_rate, trial.losses[-1]
        if not trial.chosen or loss is None:
            continue
        panel.plot([rate], [loss], marker="o", markersize=12, markerfacecolor="none", color=colour, linestyle="")
        if arrow := {"low": "←", "high": "→"}.get(trial.ended):
            panel.annotate(arrow, (rate, loss), (-16 if arrow == "←" else 7, -4), textcoords="offset points")


def _points(trials: Sequence[TrialRecord], steps: int) -> tuple[list[float], list[float]]:
    """Rates and losses of the trials that took so many steps and did not diverge in them, by rate."""
    found = [(trial.learning_rate, dict(zip(trial.steps, trial.losses, strict=True)).get(steps)) for trial in trials]
    points = sorted((rate, loss) for rate, loss in found if loss is not None)
    return [rate for rate, _ in points], [loss for _, loss in points]
