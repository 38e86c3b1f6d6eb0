"""Table 1 and Table 2: scores by row and benchmark, which are best, and how small a difference a column can show."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from esft_bench.reports.backbone_results import ENOUGH, BackboneResults, Column, Role, Run, TableRow
from esft_bench.reports.comparisons import Comparisons
from esft_bench.reports.statistics.paired import mean_interval
from esft_bench.reports.tables.ranking import ranked
from esft_bench.reports.tables.table import Table, TableCell, averaged, why
from esft_bench.spec.record import Record
from esft_bench.spec.sections import TableOf

WEIGHED = {
    "tasks": "Avg is the mean of the columns, each counting alike",
    "items": "Avg weighs columns by their items",
}
"""How averages are made."""


def weighed(results: BackboneResults, role: Role) -> str:
    """How averages of a role's tables are made, as the end of a caption; nothing where they have one column."""
    if len(results.columns(role)) < 2:
        return ""
    return f"; {WEIGHED[results.suite.average if role == 'ability' else 'tasks']}"


def ability_table(comparisons: Comparisons, *, marked: bool = True) -> Table:
    """Table 1: the score on the task that a row was trained on, mean over seeds, and the average of the columns."""
    results = comparisons.results
    seeds = len(results.seeds)
    over = f"mean over {seeds} seeds" if seeds > 1 else "one training run per cell"
    caption = f"Score (0–100) on the task each row was trained on; {over}{weighed(results, 'ability')}."
    return _score_table(comparisons, "ability", results.rows, ("Table 1. Task ability", caption), marked=marked)


def general_table(comparisons: Comparisons, *, marked: bool = True) -> Table:
    """Table 2: general ability, mean over all training runs of a row with its 95% t-interval; none for the base."""
    results = comparisons.results
    most = len(results.tasks) * len(results.seeds)
    over = (
        f"mean over all training runs of a row ({most} where all are there) ± the half width of its 95% interval"
        if most > 1
        else "a single training run per row, so no interval over runs"
    )
    caption = f"Score (0–100) on benchmarks nobody was trained on; {over}{weighed(results, 'general')}."
    return _score_table(comparisons, "general", results.rows, ("Table 2. General ability", caption), marked=marked)


def drift_table(results: BackboneResults) -> Table:
    """How far rows have moved from the base model, in bits, the less the better: as Table 2, without an average."""
    columns = results.columns("drift")
    make = _interval_cell
    cells = {(row.name, column.name): make(results, row, column, "drift") for row in results.rows for column in columns}
    caption = (
        "Measures without a ceiling, in bits, the less the better; mean over all training runs of a row with its 95% "
        "interval. General text: cross-entropy a byte. KL to base: divergence a token from the base model on answers "
        "that it drew once, estimated as the mean of log p(base) − log p(row) over their tokens."
    )
    return Table("Drift", caption, results.rows, columns, cells)


def table_of(comparisons: Comparisons, asked: TableOf) -> Table:
    """A table of some rows only, in the order named and compared among themselves; rows there are not are left out."""
    known = {row.name: row for row in comparisons.results.rows}
    rows = [known[name] for name in asked.rows if name in known]
    number = 1 if asked.role == "ability" else 2
    caption = f"Some rows of Table {number}, marked among themselves{weighed(comparisons.results, asked.role)}."
    return _score_table(comparisons, asked.role, rows, (asked.title, caption))


def mean_cell(results: BackboneResults, row: TableRow, column: Column, role: Role) -> TableCell:
    """Mean of a row's records in a column, with what is missing."""
    records = results.of(row, column, role)
    scored = [record for record in records.values() if record.state == "scored"]
    values = [record.value for record in scored if record.value is not None]
    if not values:
        return TableCell(note=why(list(records.values()), "not finished"))
    count = sum(record.n for record in scored)
    share = sum(record.scored for record in scored) / count if count else 1.0
    expected = max(len(results.expected_runs(row, column, role)), len(records))
    note = "" if len(values) >= expected else f"{len(values)} of {expected} runs{_failures(records)}"
    return TableCell(float(np.mean(values)), runs=len(values), coverage=share if share < ENOUGH else None, note=note)


def _score_table(
    comparisons: Comparisons, role: Role, rows: Sequence[TableRow], words: tuple[str, str], *, marked: bool = True
) -> Table:
    """Cells of the rows in all columns of a role and their average, with marks; `words` are title and caption."""
    results = comparisons.results
    columns = results.columns(role)
    make = mean_cell if role == "ability" else _interval_cell
    cells = {(row.name, column.name): make(results, row, column, role) for row in rows for column in columns}
    for row in rows:
        cells[row.name, ""] = _average([cells[row.name, column.name] for column in columns], results, row, role)
    table = Table(*words, list(rows), averaged(columns), cells)
    return ranked(table, comparisons, role) if marked else table


def _interval_cell(results: BackboneResults, row: TableRow, column: Column, role: Role) -> TableCell:
    """The mean with its interval over runs; the base model has a single run and no interval."""
    cell = mean_cell(results, row, column, role)
    records = results.of(row, column, role).values()
    return _with_interval(cell, [r.value for r in records if r.state == "scored" and r.value is not None])


def _with_interval(cell: TableCell, values: Sequence[float]) -> TableCell:
    if len(values) < 2:
        return cell
    around = mean_interval(values)
    return replace(cell, low=around.low, high=around.high)


def _average(cells: Sequence[TableCell], results: BackboneResults, row: TableRow, role: Role) -> TableCell:
    """The mean of the columns where all are there; in Table 2 over the runs that have all."""
    if not cells or any(cell.value is None for cell in cells):
        missing = any(cell.value is not None for cell in cells)
        return TableCell(note="no average while a column is missing" if missing else "")
    coverage = min((cell.coverage for cell in cells if cell.coverage is not None), default=None)
    if role == "ability":
        weights = [results.weight(row, column) for column in results.columns(role)]
        value = float(np.average([cell.value for cell in cells if cell.value is not None], weights=weights))
        return TableCell(value, runs=min(cell.runs for cell in cells), coverage=coverage)
    whole = _over_whole_runs(results, row, role)
    if not whole:
        return TableCell(note="no run has every column")
    return _with_interval(TableCell(float(np.mean(whole)), runs=len(whole), coverage=coverage), whole)


def _over_whole_runs(results: BackboneResults, row: TableRow, role: Role) -> list[float]:
    """The average over columns of each run that has them all."""
    columns = results.columns(role)
    by_run: dict[Run, list[float]] = {}
    for column in columns:
        for run, record in results.of(row, column, role).items():
            if record.state == "scored" and record.value is not None:
                by_run.setdefault(run, []).append(record.value)
    return [float(np.mean(values)) for values in by_run.values() if len(values) == len(columns)]


def _failures(records: Mapping[Run, Record]) -> str:
    """Why runs are missing, as far as the records say."""
    lost = [record for record in records.values() if record.state != "scored" or record.value is None]
    return f" ({why(lost, '')})" if lost else ""
