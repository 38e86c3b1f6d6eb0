"""A row's average with its uncertainty: by itself, and against the base model."""

from dataclasses import dataclass

from esft_bench.reports.content import Part
from esft_bench.reports.paired import against, own
from esft_bench.reports.scores import Role, Row
from esft_bench.reports.statistics import Comparison


@dataclass(frozen=True)
class Point:
    """A row's average with its 95% interval."""

    value: float
    low: float
    high: float


def average(part: Part, row: Row, role: Role) -> Point | None:
    """A row's average; None where a column is missing or short of coverage.

    The interval is over items and runs for task ability, over training runs for general ability, as in the tables.
    """
    cell = part.table(role).cells.get((row.name, ""))
    if cell is None or cell.value is None or not cell.comparable:
        return None
    if cell.low is not None and cell.high is not None:
        return Point(cell.value, cell.low, cell.high)
    found = own(part.scores, row, role)
    return Point(cell.value, found.low, found.high) if found else Point(cell.value, cell.value, cell.value)


def gain(part: Part, row: Row, role: Role) -> Comparison | None:
    """A row minus the base model, averaged over the columns and paired; None where either has no average."""
    cells = part.table(role).cells
    if part.base is None or not all(
        (cell := cells.get((one.name, ""))) and cell.comparable for one in (row, part.base)
    ):
        return None
    return against(part.scores, row, part.base, role)
