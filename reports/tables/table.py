"""A table and its cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from esft_bench.reports.backbone_results import AVERAGE, Column, TableRow
from esft_bench.reports.statistics.paired import PairedDifference
from esft_bench.spec.record import Record

if TYPE_CHECKING:
    import pandas as pd

Mark = Literal["", "best", "second", "significant", "same"]
Key = tuple[str, str]
"""(row name, column name); the average's column name is empty."""


@dataclass(frozen=True)
class TableCell:
    """One cell of a table.

    `mark` is `best` (best or not distinguishable from the best), `second`, or, where the cell is a difference,
    `significant` or `same` (within the margin); `coverage` is the scored share where too few items have a score; `note`
    says why something is missing or short.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    runs: int = 0
    mark: Mark = ""
    coverage: float | None = None
    note: str = ""

    @property
    def comparable(self) -> bool:
        """True where there is a value that stands for (nearly) all items."""
        return self.value is not None and self.coverage is None


@dataclass(frozen=True)
class Outcome:
    """What became of the pairs of rows in a column: how many differ, how many are the same within the margin.

    `runs` are the training runs behind the pair that has the fewest.
    """

    pairs: int
    differ: int
    same: int
    runs: int


@dataclass(frozen=True)
class Table:
    """A table: cells by (row name, column name).

    `detectable` holds for each column the minimum detectable effect, in points; `outcomes` what became of its pairs of
    rows, the same within `margin` points among them; `differences` what stands in the cells of a table of
    differences. `remark` is to be
    said below it.
    """

    title: str
    caption: str
    rows: list[TableRow]
    columns: list[Column]
    cells: Mapping[Key, TableCell]
    detectable: Mapping[str, float] = field(default_factory=dict)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    margin: float = 0.0
    remark: str = ""
    differences: Mapping[Key, PairedDifference] = field(default_factory=dict)

    @property
    def shown(self) -> "Table":
        """The table without its average where that is the average of one column."""
        own = [column for column in self.columns if column.name]
        if len(own) != 1:
            return self
        detectable = {name: effect for name, effect in self.detectable.items() if name}
        outcomes = {name: outcome for name, outcome in self.outcomes.items() if name}
        differences = {key: found for key, found in self.differences.items() if key[1]}
        return replace(self, columns=own, detectable=detectable, outcomes=outcomes, differences=differences)

    def cell(self, row: TableRow, column: Column) -> TableCell:
        """The cell, empty where there is none."""
        return self.cells.get((row.name, column.name), TableCell())

    def average(self, row: TableRow) -> TableCell:
        """The row's average over the columns."""
        return self.cell(row, AVERAGE)

    def frame(self) -> "pd.DataFrame":
        """The values as a frame: row titles by column titles, NaN where there is no value."""
        import pandas as pd  # here, because no report needs it

        values = [[self.cell(row, column).value for column in self.columns] for row in self.rows]
        names = [column.title for column in self.columns]
        return pd.DataFrame(values, index=[row.title for row in self.rows], columns=names, dtype=float)


def averaged(columns: Sequence[Column]) -> list[Column]:
    """The columns and their average, where there are any."""
    return [*columns, AVERAGE] if columns else []


def why(records: Sequence[Record], otherwise: str) -> str:
    """Why there is no value: the states and notes of the records, or `otherwise` without any."""
    reasons = []
    for record in records:
        state = record.state if record.state != "scored" else "unscored"
        reason = f"{state}: {' '.join(record.note.split())}" if record.note else state
        if reason not in reasons:
            reasons.append(reason)
    return "; ".join(reasons) or otherwise
