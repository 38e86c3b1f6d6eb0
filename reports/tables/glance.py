"""One line a row: what it gains, what it forgets and what it costs, each against what it is held against."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from esft_bench.reports.backbone_results import BackboneResults, Role, TableRow
from esft_bench.reports.statistics.paired import ALPHA, PairedDifference, holm
from esft_bench.reports.tables.table import Table, TableCell


@dataclass(frozen=True)
class Side:
    """A row's average, and its paired difference to the row it is held against.

    `significant` is None where there is no difference to speak of: the reference itself, or nothing to compare.
    """

    cell: TableCell
    difference: PairedDifference | None = None
    significant: bool | None = None
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
    """All rows, and the titles of what they are held against: the best row of Table 1, the base model in Table 2."""

    lines: list[Line]
    best: str
    base: str


def glance(results: BackboneResults, ability: Table, general: Table, efficiency: Table) -> Glance:
    """Hold every row against the best in task ability and against the base model in general ability."""
    ranked = [row for row in ability.rows if ability.average(row).comparable]
    best = max(ranked, key=lambda row: ability.average(row).value or 0.0, default=None)
    base = next((row for row in general.rows if results.is_base(row) and general.average(row).comparable), None)
    able, kept = _sides(results, ability, best, "ability"), _sides(results, general, base, "general")
    # Table 1 has said which rows can't be told from the best, counting every pair of rows: it has the last word.
    for row in ranked:
        if able[row.name].difference is not None:
            able[row.name] = replace(able[row.name], significant=ability.average(row).mark != "best")
    costs = {row.name: {c.name: efficiency.cell(row, c) for c in efficiency.columns} for row in results.rows}
    lines = [Line(row, able[row.name], kept[row.name], costs[row.name]) for row in results.rows]
    return Glance(lines, best.title if best else "", base.title if base else "")


def _sides(results: BackboneResults, table: Table, reference: TableRow | None, role: Role) -> dict[str, Side]:
    """Each row's average and difference to the reference; significant by Holm's correction over the rows."""
    differences: dict[str, PairedDifference] = {}
    for row in results.rows:
        if reference is not None and row.name != reference.name and table.average(row).comparable:
            found = results.against(row, reference, role)
            if found is not None:
                differences[row.name] = found
    adjusted = dict(zip(differences, holm([found.p_value for found in differences.values()]), strict=True))
    return {
        row.name: Side(
            table.average(row),
            differences.get(row.name),
            adjusted[row.name] <= ALPHA if row.name in adjusted else None,
            reference=reference is not None and row.name == reference.name,
        )
        for row in results.rows
    }
