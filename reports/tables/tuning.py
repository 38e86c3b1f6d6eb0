"""The learning rates that rows were trained with, where they were searched for."""

from collections.abc import Sequence

from esft_bench.reports.backbone_results import BackboneResults, TableRow
from esft_bench.reports.formatting import MISSING, listing
from esft_bench.reports.tables.view import Entry, Head, TableView
from esft_bench.spec.trials import TrialRecord
from esft_bench.spec.tuned import tuned_as

ENDED = {
    "low": ("a", "the lowest learning rate tried at full length; a lower one may be better."),
    "high": ("b", "the highest learning rate tried at full length; a higher one may be better."),
}
"""Letter and note of a bracket that ended before the best was inside."""


def tuning_view(results: BackboneResults, trials: Sequence[TrialRecord]) -> TableView | None:
    """What was found for each row and task; None where nothing was searched for."""
    if not trials:
        return None
    tasks = {trial.task: trial.task_title or trial.task for trial in trials}
    chosen = {(trial.method, trial.task): trial for trial in trials if trial.chosen}
    rows = [row for row in results.rows if not results.is_base(row)]
    shown = [(row.title, [_entry(results, row, chosen, task) for task in tasks]) for row in rows]
    ended = {trial.ended for trial in chosen.values()}
    notes = [f"({letter}) {note}" for end, (letter, note) in ENDED.items() if end in ended]
    return TableView("Learning rates", _caption(trials), [Head(title) for title in tasks.values()], shown, notes=notes)


def _entry(results: BackboneResults, row: TableRow, chosen: dict[tuple[str, str], TrialRecord], task: str) -> Entry:
    """The learning rate of a row on a task, and the loss it was chosen by; what a row took from another names that."""
    suite = results.suite
    source = (tuned_as(suite, row.name) if row.name in suite.methods else None) or row.name
    trial = chosen.get((source, task))
    if trial is None:
        given = suite.row(row.name)[2] if row.name in suite.methods else None
        return Entry(f"{given:g}", "given", given) if given else Entry(MISSING)
    loss = next((loss for loss in reversed(trial.losses) if loss is not None), None)
    small = f"as {suite.title(source)}" if source != row.name else f"loss {loss:.3f}" if loss is not None else ""
    others = "".join(f", {name} {value}" for name, value in trial.hyperparameters.items())
    letter = ENDED[trial.ended][0] if trial.ended in ENDED else ""
    return Entry(f"{trial.learning_rate:g}{others}", small, trial.learning_rate, letter=letter)


def _caption(trials: Sequence[TrialRecord]) -> str:
    """What the search was, and what it took: counted, not told."""
    searches: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in trials:
        searches.setdefault((trial.method, trial.task), []).append(trial)
    counts = sorted({len(each) for each in searches.values()})
    steps = sorted({sum(sum(trial.steps) for trial in each) for each in searches.values()})
    diverged = sum(trial.state == "diverged" for trial in trials)
    gone = f" {diverged} of {len(trials)} diverged and stopped sooner." if diverged else ""
    return (
        "What the cells were trained with: of the learning rates tried, the one with the lowest loss, in nats a token, "
        "on rows held out of the task's training data; no test item had a part in it. For each row and task "
        f"{listing([str(count) for count in counts])} trials of {listing([str(count) for count in steps])} steps in "
        f"all.{gone} Random and other ablations take the rate of the row they ablate."
    )
