"""`judge calibrate`: a judge's scores of the completions that the ESFT paper's authors released, beside GPT-4's.

The release (deepseek-ai/ESFT, results/completions) holds what ESFT-Token and ESFT-Gate answered and the score that the
paper's judge, gpt-4-1106-preview, gave each answer. Here another judge scores the same answers.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from esft_bench.harness import manifest
from esft_bench.harness.judge import Judge, choose
from esft_bench.harness.judge.calibrations import identity
from esft_bench.harness.judge.question import rubric_key
from esft_bench.harness.official.verify import SCORES, Completion, completions_file, read_lines
from esft_bench.reports import calibration
from esft_bench.reports.calibration import Calibration
from esft_bench.reports.statistics.agreement import agreement
from esft_bench.reports.statistics.paired import mean_interval, standard_error
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_text, full_disk_is_a_sentence
from esft_bench.spec.judge import JudgeSettings
from esft_bench.spec.record import ItemScore
from esft_bench.spec.suite_file import load
from esft_bench.tasks.prompt import question
from esft_bench.tasks.task import Task

TASKS = {
    "summary": "summary-bdci-fewshot",
    "law": "law-bdci-fewshot",
    "translation": "translation-chren-fewshot",
}
"""The judged tasks of the release, and our tasks with the same prompt."""
AGAINST = "gpt-4-1106-preview"
BEFORE, AFTER = question("\0").split("\0")


def choose_judge(official: Path, suite: str, reference: bool, changes: Mapping[str, Any]) -> Judge:
    """The judge to calibrate: a suite's or the default one, with the command's `changes` (those that are not None).

    Raises UserError where it cannot be asked: no judge takes its place here.
    """
    given = load(suite).judge.model_dump(exclude_unset=True) if suite else {"kind": "openai"}
    asked = {name: value for name, value in changes.items() if value is not None}
    given = {"kind": "reference"} if reference else given | asked | ({"kind": "openai"} if asked else {})
    try:
        settings = JudgeSettings.model_validate(given)
    except ValidationError as error:
        raise UserError(f"The judge's settings: {error.errors()[0]['msg']}.") from error
    account = f"calibrate {official.resolve()} {digest_of_text(canonical(settings.identity))}"
    judge, note = choose(settings, account)
    if note:
        raise UserError(
            f"No key in {settings.key_env}: set it (to anything, if the endpoint asks for none), or calibrate the "
            "judge that needs neither key nor endpoint with --reference."
        )
    return judge


def calibrate(official: Path, judge: Judge, tasks: Mapping[str, Task], limit: int | None = None) -> list[Calibration]:
    """Have the released completions judged, as many as are in the folder; `limit` keeps the first items of each.

    Raises UserError where the folder holds none, or where the judge could score none.
    """
    found = []
    for name, task in TASKS.items():
        stored = list(_stored(official, name, limit))
        if not stored:
            continue
        if task not in tasks:
            raise UserError(f"There is no task '{task}' here, and it has the rubric for {name}.")
        found.append(_compare(judge, tasks[task], stored))
    if not found:
        names = ", ".join(f"{name}.jsonl" for name in TASKS)
        raise UserError(
            f"{official} holds no judged completions ({names} under results/completions): give --official a checkout "
            "of deepseek-ai/ESFT, or its results."
        )
    return found


def keep(path: Path, entries: list[Calibration]) -> None:
    """Add entries to a file, in place of older ones of the same judge and rubric."""
    with full_disk_is_a_sentence(path):
        calibration.write(path, calibration.merge(_read(path), entries))


def as_table(entries: list[Calibration]) -> Table:
    """The entries as a table: mean difference with its 95% interval, mean absolute error, rank correlation, alpha."""
    title = f"{entries[0].judge} minus {AGAINST}, points of 100"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("task", "answers", "difference [95%]", "error", "Spearman", "alpha"):
        table.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    for entry in entries:
        interval = "" if entry.low is None else f" [{entry.low:+.1f}, {entry.high:+.1f}]"
        ranks = ("–" if rank is None else f"{rank:.2f}" for rank in (entry.spearman, entry.alpha))
        answers = str(entry.answers) if entry.scored == entry.answers else f"{entry.scored} of {entry.answers}"
        difference = f"{entry.difference:+.1f}{interval}"
        table.add_row(entry.title, answers, difference, f"{entry.absolute_error:.1f}", *ranks)
    return table


def _read(path: Path) -> list[Calibration]:
    try:
        return calibration.read(path)
    except ValueError as error:
        raise UserError(f"{error}: remove it, or name another with --out.") from error


def _stored(official: Path, name: str, limit: int | None) -> Iterator[tuple[ItemScore, float]]:
    """The released answers to a task and their stored scores in [0, 1]; an item's `id` is its place."""
    for score in SCORES:
        path = completions_file(official, score, name)
        for place, line in enumerate(read_lines(path, Completion)[:limit] if path.is_file() else ()):
            example = line.example
            prompt = example.prompt.removeprefix(BEFORE).removesuffix(AFTER)
            texts = {"prompt": prompt, "completion": example.raw_prediction, "answer": example.raw_answers[0]}
            yield ItemScore(id=str(place), score=None, **texts), line.score


def _compare(judge: Judge, task: Task, stored: list[tuple[ItemScore, float]]) -> Calibration:
    """Judge the answers and compare the scores with the stored ones."""
    assert task.rubric is not None
    verdicts = judge.score(task.rubric, [item for item, _ in stored])
    both = [
        (item.id, 100 * verdict.score, 100 * before)
        for (item, before), verdict in zip(stored, verdicts, strict=True)
        if verdict.score is not None
    ]
    if not both:
        raise UserError(f"{judge.name} could score none of {len(stored)} answers to {task.name}: {verdicts[0].reason}.")
    by_item: dict[str, list[float]] = defaultdict(list)
    for item, ours, before in both:
        by_item[item].append(ours - before)
    differences = [sum(values) / len(values) for values in by_item.values()]
    mean = mean_interval(differences)
    seen = agreement([(ours, before) for _, ours, before in both])
    several = len(differences) > 1
    return Calibration(
        judge=judge.name,
        identity=identity(judge),
        rubric=rubric_key(task.rubric),
        task=task.name,
        title=task.title,
        against=AGAINST,
        answers=len(stored),
        scored=len(both),
        items=len(differences),
        difference=mean.estimate,
        low=mean.low if several else None,
        high=mean.high if several else None,
        absolute_error=seen.absolute,
        spearman=seen.spearman,
        alpha=seen.alpha,
        standard_error=standard_error(differences) if several else None,
        made=manifest.now(),
    )
