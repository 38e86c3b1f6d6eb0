"""One line a row: what it gains, what it forgets and what it costs, each against what it is held against."""

from collections.abc import Mapping
from dataclasses import dataclass

from esft_bench.reports.backbone_results import Role, TableRow
from esft_bench.reports.comparisons import Comparisons
from esft_bench.reports.statistics.paired import PairedDifference
from esft_bench.reports.tables.table import Table, TableCell


@dataclass(frozen=True)
class Side:
    """A row's average, and its paired difference to the row it is held against.

    `significant` is None where there is no difference to speak of: the reference itself, or nothing to compare; `same`
    says that it is less than the margin, beyond chance.
    """

    cell: TableCell
    difference: PairedDifference | None = None
    significant: bool | None = None
    same: bool = False
    reference: bool = False


@dataclass(frozen=True)
class Line:
    """A row at a glance; `costs` by metric."""

    row: TableRow
    ability: Side
    general: Side
    costs: Mapping[str, TableCell]


@dataclass(frozen=True)
class Glance:
    """All rows, and the titles of what they are held against: the best row of Table 1, the base model in Table 2.

    `margin`: rows that differ by less, in points, are the same.
    """

    lines: list[Line]
    best: str
    base: str
    margin: float


def glance(comparisons: Comparisons, ability: Table, general: Table, efficiency: Table) -> Glance:
    """Hold every row against the best in task ability and against the base model in general ability."""
    results = comparisons.results
    ranked = [row for row in ability.rows if ability.average(row).comparable]
    best = max(ranked, key=lambda row: ability.average(row).value or 0.0, default=None)
    base = next((row for row in general.rows if results.is_base(row) and general.average(row).comparable), None)
    able = {row.name: _side(comparisons, ability, row, best, "ability") for row in results.rows}
    kept = {row.name: _side(comparisons, general, row, base, "general") for row in results.rows}
    costs = {row.name: {c.name: efficiency.cell(row, c) for c in efficiency.columns} for row in results.rows}
    lines = [Line(row, able[row.name], kept[row.name], costs[row.name]) for row in results.rows]
    return Glance(lines, best.title if best else "", base.title if base else "", comparisons.margin)


def _side(comparisons: Comparisons, table: Table, row: TableRow, reference: TableRow | None, role: Role) -> Side:
    """A row's average and its difference to the reference, as all of the report judges it."""
    cell = table.average(row)
    if reference is None or row.name == reference.name:
        return Side(cell, reference=reference is not None)
    found = comparisons.between(row, reference, role) if cell.comparable else None
    if found is None:
        return Side(cell)
    differ = comparisons.differ(row, reference, role)
    return Side(cell, found, differ, not differ and comparisons.same(row, reference, role))
