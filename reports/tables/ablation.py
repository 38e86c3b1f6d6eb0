"""Table 3: rows that ablate another one, minus that one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from esft_bench.reports.backbone_results import AVERAGE, Column, TableRow
from esft_bench.reports.comparisons import Comparisons
from esft_bench.reports.statistics.detectable import detectable_effect
from esft_bench.reports.statistics.paired import PairedDifference, paired_difference
from esft_bench.reports.tables.scores import mean_cell, weighed
from esft_bench.reports.tables.table import Table, TableCell, averaged

CAPTION = (
    "Each row minus the row it ablates, with other experts and as many of them in each layer: paired differences in "
    "points with 95% interval"
)


def ablation_table(comparisons: Comparisons, *, marked: bool = True) -> Table:
    """Table 3: an ablation minus the row it ablates, paired over items (and seeds), with 95% intervals."""
    results = comparisons.results
    named = {row.name: row for row in results.rows}
    pairs = [(row, named[row.ablates]) for row in results.rows if row.ablates in named]
    columns = averaged(results.columns("ability"))
    places = [(row, other, column) for row, other in pairs for column in columns]
    found = {(row.name, column.name): _difference(comparisons, row, other, column) for row, other, column in places}
    differences = {key: one for key, one in found.items() if one is not None}
    cells = {(row.name, column.name): _cell(comparisons, row, other, column) for row, other, column in places}
    rows = [replace(row, title=f"{row.title} − {other.title}") for row, other in pairs]
    caption = f"{CAPTION}{weighed(results, 'ability')}."
    table = Table("Table 3. Ablations", caption, rows, columns, cells, differences=differences)
    return _marked(table, comparisons, places) if marked else table


def _marked(table: Table, comparisons: Comparisons, places: Sequence[tuple[TableRow, TableRow, Column]]) -> Table:
    """The table with what is significant among all comparisons of the report, and what could be."""
    cells = dict(table.cells)
    effects: dict[str, list[float]] = {}
    for row, other, column in places:
        key = (row.name, column.name)
        found = table.differences.get(key)
        if found is None:
            continue
        effects.setdefault(column.name, []).append(detectable_effect(found.components, comparisons.level))
        if comparisons.differ(row, other, "ability", column):
            cells[key] = replace(cells[key], mark="significant")
        elif comparisons.same(row, other, "ability", column):
            cells[key] = replace(cells[key], mark="same")
    detectable = {column: float(np.median(of_column)) for column, of_column in effects.items()}
    return replace(table, cells=cells, detectable=detectable, margin=comparisons.margin)


def _difference(comparisons: Comparisons, row: TableRow, other: TableRow, column: Column) -> PairedDifference | None:
    """The paired difference, as all of the report has it; one with too few scored items is shown, not judged."""
    found = comparisons.between(row, other, "ability", column)
    results = comparisons.results
    covered = all(results.covered(side, column, "ability") for side in (row, other))
    if found is not None or covered or column.mixed or column is AVERAGE:
        return found
    scores = results.item_scores([row, other], [column], "ability")
    return paired_difference([scores[row.name][0] - scores[other.name][0]])


def _cell(comparisons: Comparisons, row: TableRow, other: TableRow, column: Column) -> TableCell:
    """The paired difference where both sides have a value by the same judge, else why there is none."""
    found = _difference(comparisons, row, other, column)
    if column is AVERAGE:
        missing = TableCell(note="no average while a column is missing or short of scored items")
        return TableCell(found.estimate, found.low, found.high, found.runs) if found else missing
    sides = [mean_cell(comparisons.results, side, column, "ability") for side in (row, other)]
    lacking = next((side for side in sides if side.value is None), None)
    if lacking or found is None:
        reason = (lacking.note if lacking else "") or "no item is scored in both rows by the same judge"
        return TableCell(note=reason)
    short = min((side.coverage for side in sides if side.coverage is not None), default=None)
    return TableCell(found.estimate, found.low, found.high, found.runs, coverage=short)
