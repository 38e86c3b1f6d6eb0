"""What tuning tried, collected from the logs of trials into `tuning.jsonl`."""

from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.tune import TuneStep
from esft_bench.spec import trials
from esft_bench.spec.cell import TOGETHER
from esft_bench.spec.trials import TrialRecord


def write(plan: Plan, graph: Graph, folder: Path) -> None:
    """Write the trials of a run's finished searches into its folder, once there is one."""
    found = [record for (row, _), step in plan.searches.items() for record in _records(plan, graph, row, step)]
    if found:
        trials.write(found, folder)


def _records(plan: Plan, graph: Graph, row: str, step: TuneStep) -> Iterator[TrialRecord]:
    """The trials of a search, task by task; nothing before it is over."""
    if step not in graph.finished:
        return
    folders = {role: artifact.folder for role, artifact in graph.inputs(step).items()}
    losses = step.losses(folders)
    chosen = step.search.chosen(losses)
    furthest = {trial.number: trial for trial in step.search.trials(losses)}
    assert chosen is not None
    ended = step.search.ended(chosen.learning_rate, losses)
    for task in step.tried:
        own = step.losses(folders, task)
        for trial in furthest.values():
            yield TrialRecord(
                backbone=plan.suite.backbone.path,
                method=row,
                method_title=plan.suite.title(row),
                task=task,
                task_title=f" {TOGETHER} ".join(plan.tasks[one].title for one in task.split(TOGETHER)),
                number=trial.number,
                learning_rate=trial.learning_rate,
                hyperparameters=dict(trial.hyperparameters),
                **_came(step, {rung: loss for (number, rung), loss in own.items() if number == trial.number}),
                chosen=trial.number == chosen.number,
                ended=ended,
            )


def _came(step: TuneStep, losses: dict[int, float]) -> dict[str, object]:
    """How far a trial came, with the loss on each rung."""
    tune = step.search.tune
    diverged = not all(map(isfinite, losses.values()))
    last = "finished" if max(losses) + 1 == tune.rungs else "stopped"
    return {
        "steps": [tune.steps(rung, step.steps) for rung in losses],
        "losses": [loss if isfinite(loss) else None for loss in losses.values()],
        "state": "diverged" if diverged else last,
    }
