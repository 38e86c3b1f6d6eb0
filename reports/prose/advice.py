"""Which method for this task? In plain words, from the numbers and their uncertainty; no paper's order is presumed.

For a task: the rows that are best or not distinguishable from the best (Table 1's own test), of these the ones measured
within the suite's margin of the best (few runs tell little apart), and of these the cheapest (time × memory × storage),
unless another of the first keeps more of the general ability, beyond chance and by more points than it scores less;
what it costs, and what it makes the model forget (general ability of the cells trained on that task against the base
model, paired over items, judged among all comparisons of the report). Rows that ablate another, such as random experts,
are named where they cannot be told from the best and are never the advice. Where each row was trained once, the advice
says that it is about these trainings.

Where rows have curves, these decide (equal_gain.py): at one learning rate a row may forget more only for having gained
more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from esft_bench.reports.backbone_results import AVERAGE, BackboneResults, Column, TableRow
from esft_bench.reports.comparisons import Comparisons
from esft_bench.reports.formatting import Sentence, interval, listing, named, number, one_line
from esft_bench.reports.prose.drift import moved
from esft_bench.reports.prose.equal_gain import forget_least
from esft_bench.reports.prose.task_advice import (
    COSTS,
    UNDECIDED,
    TaskAdvice,
    cheap,
    cheapest_near_the_best,
    cheapest_of_all,
    costs_by_row,
    how_cheap,
    if_typical,
    lowest,
    near_the_best,
    take,
)
from esft_bench.reports.statistics.paired import PairedDifference
from esft_bench.reports.tables.equal_gain import EqualGain
from esft_bench.reports.tables.table import Table

UNKNOWN = "What is forgotten is not known: there is no average of general benchmarks to compare."
SURE = "the difference to every other row is significant"


@dataclass(frozen=True)
class Advice:
    """One for the average over all tasks, and one for each task."""

    overall: TaskAdvice | None
    tasks: tuple[TaskAdvice, ...]


def advise(comparisons: Comparisons, ability: Table, general: Table, curves: EqualGain) -> Advice:
    """Derive the advice from the tables, the curves and the items behind them."""
    results = comparisons.results
    columns = [column for column in ability.columns if column.name]
    if not any(not results.is_base(row) for row in ability.rows) or not columns:
        return Advice(None, ())

    def of(column: Column) -> TaskAdvice:
        read = forget_least(curves, column)
        told = _advise(comparisons, ability, general, column) if read is None else read
        absent = _absent(ability, column) if read is not None else []
        return replace(told, sentences=(*told.sentences, *absent))

    tasks = tuple(of(column) for column in columns)
    overall = of(AVERAGE) if len(columns) > 1 else None
    if overall and overall.pick:
        overall = _unless_a_task_says_otherwise(
            comparisons, overall, overall.pick, dict(zip(columns, tasks, strict=True))
        )
    return Advice(overall, tasks)


def _unless_a_task_says_otherwise(
    comparisons: Comparisons, overall: TaskAdvice, pick: TableRow, tasks: Mapping[Column, TaskAdvice]
) -> TaskAdvice:
    """The overall pick only where no single task speaks against it: averages hide, and few tasks tell little apart."""
    behind = [one.title for one in tasks.values() if one.candidates and pick not in one.candidates]
    forgets = [
        one.title
        for column, one in tasks.items()
        if pick in one.candidates and _keeping_more(comparisons, pick, one.candidates, one.forgotten, column)
    ]
    if not behind and not forgets:
        return overall
    what = "it forgets more at equal gain" if overall.at_equal_gain else "its score is behind"
    parts = [f"{what} on {listing(behind)}"] if behind else []
    parts += [f"another that scores as high keeps more of the general ability on {listing(forgets)}"] if forgets else []
    why = f"{pick.title} is best or cheapest on average, but {' and '.join(parts)}."
    return replace(overall, pick=None, sentences=(Sentence(why, UNDECIDED), *overall.sentences[1:]))


def _advise(comparisons: Comparisons, ability: Table, general: Table, column: Column) -> TaskAdvice:
    """One task, or the average."""
    results = comparisons.results
    title = "Over all tasks" if column is AVERAGE else column.title
    there = [row for row in ability.rows if ability.cell(row, column).comparable]
    ranked = sorted(there, key=lambda row: -(ability.cell(row, column).value or 0.0))
    if column.mixed or len(ranked) < 2:
        why = "its rows were judged by different judges" if column.mixed else "fewer than two rows can be compared"
        told = [Sentence(f"No advice: {why} yet."), *_absent(ability, column)]
        return TaskAdvice(column.name, title, sentences=tuple(told))
    top = [row for row in ranked if ability.cell(row, column).mark == "best"]
    candidates = tuple(row for row in top if not results.is_base(row) and not row.ablates)
    sentences = [_best(results, ability, column, ranked), *_absent(ability, column)]
    if not candidates:
        return TaskAdvice(column.name, title, sentences=tuple(sentences))
    if any(results.is_base(row) for row in top):
        why = "the base model is among the best: on these items no gain from training is significant."
        return TaskAdvice(column.name, title, candidates, sentences=(Sentence(why, "Take none yet"), *sentences))
    costs = {metric: costs_by_row(results, candidates, column, metric) for metric in COSTS}
    cheapest = {metric: lowest(candidates, found) for metric, found in costs.items() if len(found) == len(candidates)}
    forgotten = _forgotten(comparisons, general, candidates, column)
    sure = _sure(comparisons, forgotten, column)
    behind = {row: -(ability.cell(row, column).value or 0.0) for row in candidates}
    near = near_the_best(behind, comparisons.margin)
    pick, why = _pick(comparisons, (near, behind), costs, forgotten, column)
    verdict = Sentence(why, UNDECIDED)
    if pick:
        drift = moved(results, [pick], _base(comparisons), _task(column) or "")
        verdict = take(pick, why, costs, _forgets([pick], forgotten, sure) or drift or UNKNOWN)
        if _single(ability, column):
            verdict = if_typical(verdict)
    of_all = [Sentence(_forgets(candidates, forgotten, sure))] if len(candidates) > 1 and forgotten else []
    words = (verdict, *sentences, *cheap(candidates, cheapest, costs), *of_all)
    return TaskAdvice(column.name, title, candidates, cheapest, forgotten, sure, pick, words)


def _single(ability: Table, column: Column) -> bool:
    """Whether rows of the column were trained once each."""
    outcome = ability.outcomes.get(column.name)
    return outcome is not None and outcome.runs == 1


def _best(results: BackboneResults, ability: Table, column: Column, ranked: Sequence[TableRow]) -> Sentence:
    """Who is highest and who cannot be told from it."""
    best = ranked[0]
    marked = [row for row in ability.rows if ability.cell(row, column).mark == "best"]
    highest = number(ability.cell(best, column).value or 0.0)
    if not marked:
        told = f"{_name(best)} scores highest, {highest}, but there are no items to compare it by."
    elif len(marked) == 1:
        sure = "this training differs from that of every other row" if _single(ability, column) else SURE
        told = f"{_name(best)} scores highest, {highest}, and {sure}."
    else:
        lowest = number(min(ability.cell(row, column).value or 0.0 for row in marked))
        names = named([_name(row) for row in marked])
        told = f"{names} score highest, {lowest} to {highest}, and are not distinguishable from the highest of them."
    return Sentence(told)


def _name(row: TableRow) -> str:
    return f"{row.title} (an ablation)" if row.ablates else row.title


def _absent(ability: Table, column: Column) -> list[Sentence]:
    """The rows that were not compared, with the reason."""
    reasons = []
    for row in ability.rows:
        cell = ability.cell(row, column)
        if cell.comparable:
            continue
        short = f"only {100 * cell.coverage:.0f}% of its items scored" if cell.coverage is not None else ""
        reasons.append(f"{row.title} ({one_line(short or cell.note or 'no value', 80)})")
    return [Sentence(f"Not compared: {listing(reasons)}.")] if reasons else []


def _forgotten(
    comparisons: Comparisons, general: Table, rows: Sequence[TableRow], column: Column
) -> dict[str, PairedDifference]:
    """General ability of the rows' cells of this task minus the base model's, where both are there."""
    base = _base(comparisons)
    task = _task(column)
    if base is None or task is None or not general.columns:
        return {}
    compared = {row.name: comparisons.between(row, base, "general", task=task) for row in rows}
    return {name: one for name, one in compared.items() if one is not None}


def _base(comparisons: Comparisons) -> TableRow | None:
    """The row that is not trained."""
    results = comparisons.results
    return next((row for row in results.rows if results.is_base(row)), None)


def _task(column: Column) -> str | None:
    """The task after which general ability is asked for, empty for all; None where a column stands for several."""
    tasks = ("",) if column is AVERAGE else column.tasks
    return tasks[0] if len(tasks) == 1 else None


def _sure(comparisons: Comparisons, forgotten: Mapping[str, PairedDifference], column: Column) -> frozenset[str]:
    """The rows whose general ability differs significantly from the base model's."""
    base, task = _base(comparisons), _task(column)
    rows = [row for row in comparisons.results.rows if row.name in forgotten]
    if base is None or task is None:
        return frozenset()
    return frozenset(row.name for row in rows if comparisons.differ(row, base, "general", task=task))


def _forgets(rows: Sequence[TableRow], forgotten: Mapping[str, PairedDifference], sure: frozenset[str]) -> str:
    """General ability against the base model, row by row; empty where no row has it."""
    told = []
    for row in rows:
        one = forgotten.get(row.name)
        if one:
            mark = "" if row.name in sure else " (not significant)"
            told.append(f"{row.title} {interval(one.estimate, one.low, one.high)}{mark}")
    return f"General ability after training, against the base model: {listing(told)}." if told else ""


def _keeping_more(
    comparisons: Comparisons,
    pick: TableRow,
    rows: Sequence[TableRow],
    forgotten: Mapping[str, PairedDifference],
    column: Column,
) -> dict[TableRow, float]:
    """The candidates that keep more general ability than `pick`, where that is significant, and how many points."""
    task = _task(column)
    others = [row for row in rows if row != pick and {row.name, pick.name} <= set(forgotten)]
    if task is None:
        return {}
    compared = {row: comparisons.between(row, pick, "general", task=task) for row in others}
    return {
        row: one.estimate
        for row, one in compared.items()
        if one is not None and one.estimate > 0 and comparisons.differ(row, pick, "general", task=task)
    }


def _pick(
    comparisons: Comparisons,
    alike: tuple[Sequence[TableRow], Mapping[TableRow, float]],
    costs: Mapping[str, Mapping[str, float]],
    forgotten: Mapping[str, PairedDifference],
    column: Column,
) -> tuple[TableRow | None, str]:
    """The row to take, and why: the cheapest near the best, or the cheapest that keeps more than it scores less.

    `alike` are the rows near the best, and how many points each that cannot be told from the best is behind zero.
    """
    near, behind = alike
    rows = list(behind)
    if len(rows) == 1:
        return rows[0], "no other method scores as high here."
    equal = f"{listing([row.title for row in rows])} cannot be told apart by score"
    pick = near[0] if len(near) == 1 else cheapest_of_all(near, costs)
    if pick is None:
        return None, f"{equal}, and what they cost was not measured for all of them."
    passed: list[TableRow] = []
    while better := _worth_it(_keeping_more(comparisons, pick, rows, forgotten, column), behind, pick):
        passed.append(pick)
        pick = cheapest_of_all(better, costs) or better[0]
    if passed:
        return pick, f"{equal}; {_why_passed(passed, pick, costs)}."
    how = how_cheap(pick, near, costs) if len(near) > 1 else ""
    return pick, equal + cheapest_near_the_best(rows, near, comparisons.margin, how)


def _worth_it(kept: Mapping[TableRow, float], behind: Mapping[TableRow, float], pick: TableRow) -> list[TableRow]:
    """The rows that keep more points of general ability than they score less."""
    return [row for row, points in kept.items() if points > behind[row] - behind[pick]]


def _why_passed(passed: Sequence[TableRow], pick: TableRow, costs: Mapping[str, Mapping[str, float]]) -> str:
    """Why rows were not taken that would have been but for what they forget."""
    cheaper = all(cheapest_of_all([row, pick], costs) is row for row in passed)
    several = len(passed) > 1
    what = ("are" if several else "is") + " cheaper" if cheaper else "score" + "s" * (not several) + " higher"
    keep = "keep" if several else "keeps"
    return f"{listing([row.title for row in passed])} {what} but {keep} less of the general ability"
