"""What is said where curves are read at equal gain, and why they are not where they are not.

Which row to take is then: of those that forget least at equal gain, or cannot be told from that one and measured within
the suite's margin of it, the cheapest.
"""

from collections.abc import Mapping, Sequence

from esft_bench.reports.backbone_results import AVERAGE, Column, TableRow
from esft_bench.reports.formatting import Sentence, bounds, listing, number
from esft_bench.reports.gain_curves import trained_rows
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
from esft_bench.reports.tables.equal_gain import EqualGain, ReadTable

RATES = (0.25, 0.5, 1)
"""What a suite is told to try where it has one rate a row."""


def no_reading(seen: EqualGain) -> str:
    """Why nothing is read at equal gain, and what would be needed; empty where there is nothing to compare at all."""
    results = seen.results
    rows = trained_rows(results)
    if len(rows) < 2 or not results.tasks:
        return ""
    if not seen.is_curve:
        cells = len(rows) * len(results.tasks) * len(results.seeds) * (len(RATES) - 1)
        listed = ", ".join(f"{rate:g}" for rate in RATES)
        return (
            "Each row was trained at one learning rate, so one may forget more than another for having gained more: "
            f"nothing can be read at equal gain. For that, write `curve: {{rates: [{listed}]}}` in the suite (or --set "
            f"'curve.rates=[{listed}]'): {cells} more cells, each row at these multiples of its rate."
        )
    if not seen.curves:
        return (
            "Curves are not read yet: that takes the base model, a measure of forgetting, and a row with every point "
            "of its curve."
        )
    return "No row gains beyond chance on any task, so there is no gain at which curves could be read."


def forget_least(seen: EqualGain, column: Column) -> TaskAdvice | None:
    """The advice for a task, or the average, from curves at equal gain; None where fewer than two rows are read."""
    read = seen.forgetting
    task = "" if column is AVERAGE else next((name for name in column.tasks if name in seen.at), None)
    if read is None or task is None:
        return None
    rows = [row for row in read.table.rows if (row.name, task) in read.readings.found]
    rows.sort(key=lambda row: read.readings.found[row.name, task].estimate)
    if len(rows) < 2:
        return None
    least = [row for row in rows if read.table.cells[row.name, task].mark == "best"]
    candidates = tuple(row for row in least if not row.ablates)
    title = "Over all tasks" if column is AVERAGE else column.title
    told = [_forgets(seen, read, rows, task), *_unread(read, rows, task)]
    if not candidates:
        why = "only an ablation, which chooses no experts, forgets so little at equal gain."
        return TaskAdvice(column.name, title, sentences=(Sentence(why, UNDECIDED), *told), at_equal_gain=True)
    costs = {metric: costs_by_row(seen.results, candidates, column, metric) for metric in COSTS}
    cheapest = {metric: lowest(candidates, found) for metric, found in costs.items() if len(found) == len(candidates)}
    losses = {row: read.readings.found[row.name, task].estimate for row in candidates}
    near = near_the_best(losses, seen.results.suite.same_within)
    pick = near[0] if len(near) == 1 else cheapest_of_all(near, costs)
    lost = f"General ability lost at equal gain: {_lost(read, pick, task)}." if pick else ""
    verdict = _verdict(seen, (candidates, near), pick, costs, lost)
    if pick and read.readings.runs == 1:
        verdict = if_typical(verdict)
    told = [verdict, *told, *cheap(candidates, cheapest, costs)]
    return TaskAdvice(column.name, title, candidates, cheapest, pick=pick, sentences=tuple(told), at_equal_gain=True)


def _lost(read: ReadTable, row: TableRow, task: str) -> str:
    found = read.readings.found[row.name, task]
    return f"{_named(row)} {number(found.estimate)} {bounds(found.low, found.high)}"


def _forgets(seen: EqualGain, read: ReadTable, rows: Sequence[TableRow], task: str) -> Sentence:
    """What each row that was read has lost, the least first, and what cannot be told apart."""
    gain = f"a gain of {number(seen.at[task][0])} points" if task else "the gains of the first table, on average"
    lost = []
    for row in rows:
        at = f" at {seen.rate_at(row, task):.2g} of its {seen.results.suite.curve.along}" if task else ""
        lost.append(f"{_lost(read, row, task)}{at}")
    same = [_named(row) for row in rows if read.table.cells[row.name, task].mark == "best"]
    alike = f"; {listing(same)} are not distinguishable" if len(same) > 1 else ", and the first is significantly lowest"
    return Sentence(f"General ability lost at {gain}: {listing(lost)}{alike}.")


def _named(row: TableRow) -> str:
    return f"{row.title} (an ablation)" if row.ablates else row.title


def _unread(read: ReadTable, rows: Sequence[TableRow], task: str) -> list[Sentence]:
    """The rows whose curves were not read there, and why."""
    left = [f"{row.title} ({read.table.cells[row.name, task].note})" for row in read.table.rows if row not in rows]
    return [Sentence(f"Not read there: {listing(left)}.")] if left else []


def _verdict(
    seen: EqualGain,
    alike: tuple[Sequence[TableRow], Sequence[TableRow]],
    pick: TableRow | None,
    costs: Mapping[str, Mapping[str, float]],
    lost: str,
) -> Sentence:
    """Which row to take: the cheapest of those that cannot be told from the one that forgets least, and are near it."""
    rows, near = alike
    told = f"at equal gain {listing([row.title for row in rows])} cannot be told apart in what they forget"
    if pick is None:
        return Sentence(f"{told}, and what they cost was not measured for all of them.", UNDECIDED)
    if len(rows) == 1:
        return take(pick, "no other method forgets as little at equal gain.", costs, lost)
    how = how_cheap(pick, near, costs) if len(near) > 1 else ""
    why = cheapest_near_the_best(rows, near, seen.results.suite.same_within, how)
    return take(pick, told + why, costs, lost)
