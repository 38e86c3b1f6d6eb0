"""A paper's published values beside ours, where the suite is that paper's.

Published numbers are data (`published/*.yaml`, each with its source). A difference is *resolved* where the published
value lies outside our 95% interval; where the paper gives an interval of its own, both half widths are added in
quadrature, (h_ours² + h_theirs²)^½, as for two independent estimates. Averages are recomputed from the paper's columns.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esft_bench.reports.paired import own
from esft_bench.reports.scores import Column, Row, Scores
from esft_bench.reports.tables import AVERAGE, Table

Kind = Literal["ability", "general", "ablation"]


class Strict(BaseModel):
    """Frozen, and no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedTable(Strict):
    """A table as it was published.

    Attributes:
        title, kind: which of our tables it stands beside; in an `ablation` a row is named after the one it ablates.
        digits: decimals it was printed with.
        backbone: as the paper says it; `backbones`: parts of names or paths by which ours is known to be the same.
        source: document and table.
        rows: values by row title, in the order of `columns`; `averages` as printed; `half_widths` of 95% intervals,
            the average's last.
    """

    title: str
    kind: Kind
    digits: int
    backbone: str
    backbones: list[str]
    source: str
    columns: list[str]
    rows: dict[str, list[float]]
    averages: dict[str, float] = {}
    half_widths: dict[str, list[float]] = {}

    @model_validator(mode="after")
    def _every_row_has_every_column(self) -> "PublishedTable":
        wrong = [name for name, row in self.rows.items() if len(row) != len(self.columns)]
        wrong += [name for name, row in self.half_widths.items() if len(row) != len(self.columns) + 1]
        if wrong or not set(self.averages) <= set(self.rows) or not set(self.half_widths) <= set(self.rows):
            raise ValueError(f"{self.source}: rows and columns do not fit ({', '.join(wrong) or 'unknown row names'})")
        return self

    def average(self, row: str) -> float:
        """The mean of the row's columns."""
        return float(np.mean(self.rows[row]))

    def misprinted(self) -> dict[str, float]:
        """Rows whose printed average is not the mean of their columns, beyond rounding: the printed value."""
        unit = 10.0**-self.digits
        return {row: value for row, value in self.averages.items() if abs(value - self.average(row)) > unit + 1e-9}


class Published(Strict):
    """A paper's tables. `aliases`: other titles under which its rows and columns are known here."""

    paper: str
    source: str
    aliases: dict[str, list[str]] = {}
    tables: list[PublishedTable] = Field(min_length=1)


@dataclass(frozen=True)
class Beside:
    """One value of the paper beside ours; `half_width` is the paper's, `low` and `high` are ours."""

    row: str
    column: str
    published: float
    half_width: float | None = None
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the published value."""
        return None if self.ours is None else self.ours - self.published

    @property
    def resolved(self) -> bool | None:
        """Whether the difference is beyond both uncertainties; None without our interval."""
        if self.ours is None or self.low is None or self.high is None:
            return None
        ours = self.ours - self.low if self.published < self.ours else self.high - self.ours
        return bool(abs(self.ours - self.published) > np.hypot(ours, self.half_width or 0.0))


@dataclass(frozen=True)
class BesideTable:
    """A published table beside ours: only rows and columns that both have."""

    title: str
    source: str
    digits: int
    cells: Sequence[Beside]
    notes: Sequence[str] = field(default_factory=list)


@cache
def published(paper: str) -> Published:
    """Read a paper's values: `esft` or `das`."""
    text = resources.files("reports").joinpath("published", f"{paper}.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))


def beside(paper: str, scores: Scores, tables: Mapping[Kind, Table], backbone: str) -> list[BesideTable]:
    """Set a paper's tables beside ours; those that share no row or column with ours are left out."""
    known = published(paper)
    chosen = _for_backbone(known.tables, backbone)
    found = [_beside(known, table, tables[table.kind], scores, backbone) for table in chosen]
    return [table for table in found if table.cells]


def _for_backbone(tables: Sequence[PublishedTable], backbone: str) -> list[PublishedTable]:
    """Of several tables of a kind the one for our backbone, else the paper's first."""
    chosen: dict[str, PublishedTable] = {}
    for table in tables:
        if table.kind not in chosen or (_same(table, backbone) and not _same(chosen[table.kind], backbone)):
            chosen[table.kind] = table
    return list(chosen.values())


def _same(table: PublishedTable, backbone: str) -> bool:
    return any(name in backbone.lower() for name in table.backbones)


def _beside(known: Published, theirs: PublishedTable, ours: Table, scores: Scores, backbone: str) -> BesideTable:
    """One table. An average is set beside ours only where both are over the same columns."""
    columns = {name: _find(name, known, [column for column in ours.columns if column.name]) for name in theirs.columns}
    rows = {name: _find_row(name, known, theirs.kind, ours.rows) for name in theirs.rows}
    cells = []
    for name, row in rows.items():
        if row is None:
            continue
        widths = theirs.half_widths.get(name, [None] * (len(theirs.columns) + 1))
        for title, value, width in zip(theirs.columns, theirs.rows[name], widths, strict=False):
            if (column := columns[title]) is not None:
                cells.append(_cell(name, title, value, width, row, column, ours, scores, theirs.kind))
        whole = all(columns.values()) and len(ours.columns) == len(theirs.columns) + 1
        if whole:
            average = theirs.average(name)
            cells.append(_cell(name, "Avg", average, widths[-1], row, AVERAGE, ours, scores, theirs.kind))
    return BesideTable(
        theirs.title, theirs.source, theirs.digits, cells, _notes(theirs, rows, columns, cells, backbone)
    )


def _notes(
    theirs: PublishedTable,
    rows: Mapping[str, Row | None],
    columns: Mapping[str, Column | None],
    cells: Sequence[Beside],
    backbone: str,
) -> list[str]:
    """What must be known to read the table."""
    notes = []
    if not _same(theirs, backbone):
        notes.append(
            f"The paper's backbone is {theirs.backbone}, ours is {backbone}: the differences are between models first."
        )
    lost = [name for name, row in rows.items() if row is None] + [name for name, one in columns.items() if one is None]
    if lost:
        notes.append(f"Not in this suite: {', '.join(lost)}.")
    for row, printed in theirs.misprinted().items():
        if rows[row] is not None:
            notes.append(
                f"{row}: the paper prints the average {printed:.{theirs.digits}f}; the mean of its columns is "
                f"{theirs.average(row):.{theirs.digits}f}, which stands here."
            )
    if cells and not any(cell.column == "Avg" for cell in cells):
        notes.append("Without averages: the paper's and ours are over other columns.")
    return notes


def _cell(
    name: str,
    title: str,
    value: float,
    width: float | None,
    row: Row,
    column: Column,
    ours: Table,
    scores: Scores,
    kind: Kind,
) -> Beside:
    """A value beside ours, with our interval: the table's own, or that over items."""
    cell = ours.cell(row, column)
    if cell.value is None or cell.coverage is not None:
        return Beside(name, title, value, width, why=cell.note or "fewer than 95% of its items scored")
    low, high = cell.low, cell.high
    if low is None and kind != "ablation":
        parts = [one for one in ours.columns if one.name] if column is AVERAGE else [column]
        found = own(scores, row, kind, parts)
        low, high = (found.low, found.high) if found else (None, None)
    return Beside(name, title, value, width, cell.value, low, high)


def _find(name: str, known: Published, columns: Iterable[Column]) -> Column | None:
    """Our column of that title, in whatever spelling."""
    wanted = _spellings(name, known)
    return next((column for column in columns if _plain(column.title) in wanted), None)


def _find_row(name: str, known: Published, kind: Kind, rows: Iterable[Row]) -> Row | None:
    """Our row of that title; of an ablation table the row that ablates it."""
    wanted = _spellings(name, known)
    if kind == "ablation":
        return next((row for row in rows if _plain(row.ablates) in wanted), None)
    return next((row for row in rows if {_plain(row.title), _plain(row.name)} & wanted), None)


def _spellings(name: str, known: Published) -> set[str]:
    return {_plain(text) for text in [name, *known.aliases.get(name, [])]}


def _plain(text: str) -> str:
    """Letters and digits only, without case."""
    return re.sub(r"[\W_]+", "", text).casefold()
