"""One line a row: what it gains, what it forgets and what it costs, each against what it is held against."""

from dataclasses import dataclass

from esft_bench.reports.paired import against
from esft_bench.reports.scores import Role, Row, Scores
from esft_bench.reports.statistics import Comparison, holm
from esft_bench.reports.tables import ALPHA, COSTS, Cell, Table


@dataclass(frozen=True)
class Side:
    """A row's average, and its paired difference to the row it is held against.

    `resolved` is None where there is no difference to speak of: the reference itself, or nothing to compare.
    """

    cell: Cell
    difference: Comparison | None = None
    resolved: bool | None = None
    reference: bool = False


@dataclass(frozen=True)
class Line:
    """A row at a glance; `costs` by the metrics of `tables.COSTS`."""

    row: Row
    ability: Side
    general: Side
    costs: dict[str, Cell]


@dataclass(frozen=True)
class Glance:
    """All rows, and the titles of what they are held against: the best row of Table 1, the base model in Table 2."""

    lines: list[Line]
    best: str
    base: str


def glance(scores: Scores, ability: Table, general: Table, efficiency: Table) -> Glance:
    """Hold every row against the best in task ability and against the base model in general ability."""
    ranked = [row for row in ability.rows if ability.cells.get((row.name, "")) and _average(ability, row).comparable]
    best = max(ranked, key=lambda row: _average(ability, row).value or 0.0, default=None)
    base = next((row for row in general.rows if scores.is_base(row) and _average(general, row).comparable), None)
    sides = {
        "ability": _sides(scores, ability, best, "ability"),
        "general": _sides(scores, general, base, "general"),
    }
    # Table 1 has said which rows can't be told from the best, counting every pair of rows: it has the last word.
    for row in ranked:
        side = sides["ability"][row.name]
        if side.difference is not None:
            told = _average(ability, row).mark != "best"
            sides["ability"][row.name] = Side(side.cell, side.difference, told)
    lines = [
        Line(
            row,
            sides["ability"][row.name],
            sides["general"][row.name],
            {metric: efficiency.cells[row.name, metric] for metric in COSTS},
        )
        for row in scores.rows
    ]
    return Glance(lines, best.title if best else "", base.title if base else "")


def _average(table: Table, row: Row) -> Cell:
    return table.cells.get((row.name, ""), Cell())


def _sides(scores: Scores, table: Table, reference: Row | None, role: Role) -> dict[str, Side]:
    """Each row's average and difference to the reference; resolved by Holm's correction over the rows."""
    differences: dict[str, Comparison] = {}
    for row in scores.rows:
        if reference is not None and row.name != reference.name and _average(table, row).comparable:
            found = against(scores, row, reference, role)
            if found is not None:
                differences[row.name] = found
    adjusted = dict(zip(differences, holm([found.p_value for found in differences.values()]), strict=True))
    return {
        row.name: Side(
            _average(table, row),
            differences.get(row.name),
            adjusted[row.name] <= ALPHA if row.name in adjusted else None,
            reference=reference is not None and row.name == reference.name,
        )
        for row in scores.rows
    }
