"""Table 3: rows that ablate another one, minus that one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from esft_bench.reports.backbone_results import BackboneResults, Column, TableRow
from esft_bench.reports.statistics.detectable import detectable_effect
from esft_bench.reports.statistics.paired import ALPHA, PairedDifference, holm, paired_difference
from esft_bench.reports.statistics.variance import Array
from esft_bench.reports.tables.scores import mean_cell
from esft_bench.reports.tables.table import AVERAGE, Key, Table, TableCell, averaged

CAPTION = (
    "Each row minus the row it ablates, with other experts and as many of them in each layer: paired differences in "
    "points with 95% interval."
)


def ablation_table(results: BackboneResults) -> Table:
    """Table 3: an ablation minus the row it ablates, paired over items (and seeds), with 95% intervals."""
    named = {row.name: row for row in results.rows}
    ablations = [row for row in results.rows if row.ablates in named]
    columns = results.columns("ability")
    differences: dict[Key, PairedDifference] = {}
    cells: dict[Key, TableCell] = {}
    for row in ablations:
        for column, cell, found in _row(results, row, named[row.ablates]):
            cells[row.name, column.name] = cell
            differences |= {(row.name, column.name): found} if found else {}
    mark_significant(cells, differences)
    rows = [replace(row, title=f"{row.title} − {named[row.ablates].title}") for row in ablations]
    effects = _detectable(differences)
    return Table("Table 3. Ablations", CAPTION, rows, averaged(columns), cells, effects, differences=differences)


def mark_significant(cells: dict[Key, TableCell], differences: Mapping[Key, PairedDifference]) -> None:
    """Mark the differences that are significant after Holm's correction over all of them."""
    adjusted = dict(zip(differences, holm([found.p_value for found in differences.values()]), strict=True))
    for key, p_value in adjusted.items():
        if p_value <= ALPHA and cells[key].coverage is None:
            cells[key] = replace(cells[key], mark="significant")


def _row(
    results: BackboneResults, row: TableRow, other: TableRow
) -> Iterator[tuple[Column, TableCell, PairedDifference | None]]:
    """The cells of one ablation, the average last."""
    columns = results.columns("ability")
    scores = results.item_scores([row, other], columns, "ability")
    differences = [a - b for a, b in zip(scores[row.name], scores[other.name], strict=True)]
    sides = {column: [mean_cell(results, side, column, "ability") for side in (row, other)] for column in columns}
    for column, array in zip(columns, differences, strict=True):
        yield column, *_cell(sides[column], [array], mixed=column.mixed)
    every = [side for pair in zip(*sides.values(), strict=True) for side in pair]
    cell, found = _cell(every, results.averaged(differences, "ability"), mixed=any(column.mixed for column in columns))
    yield AVERAGE, (cell if found else TableCell(note="no average while a column is missing")), found


def _cell(
    sides: Sequence[TableCell], differences: Sequence[Array], *, mixed: bool
) -> tuple[TableCell, PairedDifference | None]:
    """The paired difference where all sides have a value by the same judge, else why there is none."""
    lacking = next((side for side in sides if side.value is None), None)
    found = None if lacking or mixed else paired_difference(differences)
    if found is None:
        reason = (lacking.note if lacking else "") or "no item is scored in both rows by the same judge"
        return TableCell(note=reason), None
    short = min((side.coverage for side in sides if side.coverage is not None), default=None)
    return TableCell(found.estimate, found.low, found.high, found.precision.runs, coverage=short), found


def _detectable(differences: Mapping[Key, PairedDifference]) -> dict[str, float]:
    """The minimum detectable effect of each column, the median over its rows."""
    effects: dict[str, list[float]] = {}
    for (_, column), found in differences.items():
        effects.setdefault(column, []).append(detectable_effect(found.precision, len(differences)))
    return {column: float(np.median(of_column)) for column, of_column in effects.items()}
