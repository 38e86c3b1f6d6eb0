"""Which rows of a column are best, or can't be told from the best; which of them are the same; what could be told."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from esft_bench.reports.backbone_results import Column, Role, TableRow
from esft_bench.reports.comparisons import Comparisons
from esft_bench.reports.statistics.detectable import detectable_effect
from esft_bench.reports.tables.table import Mark, Outcome, Table


def ranked(table: Table, comparisons: Comparisons, role: Role) -> Table:
    """A table of scores with its marks, the outcome of its comparisons and its minimum detectable effects.

    Every pair of rows counts, because which row comes out best is itself chosen by looking. `second` is the highest of
    the rows that are told from the best.
    """
    cells, outcomes, detectable = dict(table.cells), {}, {}
    for column in table.columns:
        rows = [row for row in table.rows if table.cell(row, column).comparable]
        pairs = [
            (first, second)
            for first, second in combinations(rows, 2)
            if comparisons.components(first, second, role, column) is not None
        ]
        if not pairs:
            continue
        for name, mark in _marks(table, comparisons, role, column, rows).items():
            cells[name, column.name] = replace(cells[name, column.name], mark=mark)
        outcomes[column.name] = _outcome(comparisons, role, column, pairs)
        detectable[column.name] = _detectable(comparisons, role, column, pairs)
    return replace(table, cells=cells, outcomes=outcomes, detectable=detectable, margin=comparisons.margin)


def _marks(
    table: Table, comparisons: Comparisons, role: Role, column: Column, rows: Sequence[TableRow]
) -> dict[str, Mark]:
    """Which rows are best or not told from it, and which is second."""
    order = sorted(rows, key=lambda row: (-(table.cell(row, column).value or 0.0), row.name))
    best, rest = order[0], order[1:]
    behind = [row for row in rest if comparisons.differ(row, best, role, column)]
    marks: dict[str, Mark] = {row.name: "best" for row in order if row not in behind}
    return marks | {row.name: "second" for row in behind[:1]}


def _outcome(
    comparisons: Comparisons, role: Role, column: Column, pairs: Sequence[tuple[TableRow, TableRow]]
) -> Outcome:
    """How many pairs differ, how many are the same, how many runs are behind the least of them."""
    differ = [comparisons.differ(*pair, role, column) for pair in pairs]
    same = [comparisons.same(*pair, role, column) for pair in pairs]
    found = [comparisons.components(*pair, role, column) for pair in pairs]
    alike = sum(is_same and not is_unlike for is_same, is_unlike in zip(same, differ, strict=True))
    return Outcome(len(pairs), sum(differ), alike, min(one.runs for one in found if one is not None))


def _detectable(
    comparisons: Comparisons, role: Role, column: Column, pairs: Sequence[tuple[TableRow, TableRow]]
) -> float:
    """The minimum detectable effect of the median pair."""
    found = [comparisons.components(*pair, role, column) for pair in pairs]
    return float(np.median([detectable_effect(one, comparisons.level) for one in found if one is not None]))
