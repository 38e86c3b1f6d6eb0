"""A paper's published values beside ours, where the suite is that paper's.

Published numbers are data (`published/*.yaml`, each with its source). A published value is tested against ours and its
error: over items and runs, in Table 2 over training runs; where the paper gives an interval of its own, its variance
(half width / 1.96)² is added. Whether a difference is *significant* is judged among all comparisons of the report.
Averages are recomputed from the paper's columns, and set beside ours only where both weigh columns alike. A score that
a judge gave is set beside one that a judge gave.
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from esft_bench.reports.backbone_results import AVERAGE, ROLES, BackboneResults, Column, Role, TableRow
from esft_bench.reports.formatting import ONE_TRAINING
from esft_bench.reports.statistics.error import Error
from esft_bench.reports.statistics.family import Family
from esft_bench.reports.statistics.variance import SCALE
from esft_bench.reports.tables.published_values import Kind, Published, PublishedTable, published
from esft_bench.reports.tables.table import Table


@dataclass(frozen=True)
class Beside:
    """One value of the paper beside ours; `half_width` is the paper's, `low` and `high` are ours.

    `p_value` is that of "no difference", `significant` what comes of it among all comparisons of the report; None
    without our interval. `runs` are our training runs.
    """

    row: str
    column: str
    published: float
    half_width: float | None = None
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""
    p_value: float | None = None
    significant: bool | None = None
    runs: int = 0

    @property
    def difference(self) -> float | None:
        """Ours minus the published value."""
        return None if self.ours is None else self.ours - self.published


@dataclass(frozen=True)
class BesideTable:
    """A published table beside ours: only rows and columns that both have."""

    title: str
    source: str
    digits: int
    cells: Sequence[Beside]
    notes: Sequence[str] = field(default_factory=list)


HALF_WIDTH = 1.96
"""Half a 95% interval in standard errors, for a paper that says no more of it."""


def beside(paper: str, results: BackboneResults, tables: Mapping[Kind, Table], backbone: str) -> list[BesideTable]:
    """Set a paper's tables beside ours; those that share no row or column with ours are left out."""
    known = published(paper)
    chosen = [table for table in _for_backbone(known.tables, backbone) if table.kind in tables]
    found = [_Pairing(known, table, tables[table.kind], results).table(backbone) for table in chosen]
    return [table for table in found if table.cells]


def p_values(tables: Sequence[BesideTable], name: str) -> dict[Hashable, float]:
    """The p-values of all values beside ours that have one; `name` tells backbones of one report apart."""
    return {
        (name, table.title, place): cell.p_value
        for table in tables
        for place, cell in enumerate(table.cells)
        if cell.p_value is not None
    }


def judged(tables: Sequence[BesideTable], family: Family, name: str) -> list[BesideTable]:
    """The tables with what is significant among all comparisons of the report, which they are part of."""
    return [
        replace(
            table,
            cells=[
                cell if cell.p_value is None else replace(cell, significant=family.holds((name, table.title, place)))
                for place, cell in enumerate(table.cells)
            ],
            notes=[*table.notes, *_single(table.cells)],
        )
        for table in tables
    ]


def _single(cells: Sequence[Beside]) -> Iterator[str]:
    """What has to be said where values are those of single trainings."""
    if any(cell.runs == 1 and cell.p_value is not None for cell in cells):
        yield f"Significant means here: {ONE_TRAINING}."


def published_costs(paper: str, rows: Sequence[TableRow], backbone: str) -> dict[tuple[str, str], tuple[float, float]]:
    """What a paper says that our rows cost on our backbone, lowest and highest, by row and column header."""
    known = published(paper)
    told: dict[tuple[str, str], tuple[float, float]] = {}
    for table in (each for each in known.tables if each.kind == "costs" and _same(each, backbone)):
        given = {name: [(value, value) for value in values] for name, values in table.rows.items()}
        for name, values in (given | {name: [pair] for name, pair in table.ranges.items()}).items():
            if row := _find_row(name, known, "costs", rows):
                told |= {(row.name, column): pair for column, pair in zip(table.columns, values, strict=True)}
    return told


def _for_backbone(tables: Sequence[PublishedTable], backbone: str) -> list[PublishedTable]:
    """Of several tables of a title the one for our backbone, else the paper's first."""
    chosen: dict[str, PublishedTable] = {}
    for table in tables:
        if table.title not in chosen or (_same(table, backbone) and not _same(chosen[table.title], backbone)):
            chosen[table.title] = table
    return list(chosen.values())


def _same(table: PublishedTable, backbone: str) -> bool:
    return any(name in backbone.lower() for name in table.backbones)


class _Pairing:
    """A published table and ours: which of our rows and columns are the paper's, None where we have none."""

    def __init__(self, known: Published, theirs: PublishedTable, ours: Table, results: BackboneResults) -> None:
        self.theirs, self.ours, self.results = theirs, ours, results
        benchmarks = [column for column in ours.columns if column.name]
        self.columns = {name: _find(name, known, benchmarks) for name in theirs.columns}
        if AVERAGE.title in self.columns and AVERAGE in ours.columns:
            self.columns[AVERAGE.title] = AVERAGE
        self.rows = {name: _find_row(name, known, theirs.kind, ours.rows) for name in theirs.rows}

    def table(self, backbone: str) -> BesideTable:
        """The values beside ours, and what must be known to read them."""
        cells = [cell for name, row in self.rows.items() if row for cell in self._cells(name, row)]
        notes = list(self._notes(cells, backbone))
        return BesideTable(self.theirs.title, self.theirs.source, self.theirs.digits, cells, notes)

    def _cells(self, name: str, row: TableRow) -> Iterator[Beside]:
        """A row. Its average is set beside ours only where both are over the same columns, weighed alike."""
        widths = self.theirs.half_widths.get(name, [None] * (len(self.theirs.columns) + 1))
        for title, value, width in zip(self.theirs.columns, self.theirs.rows[name], widths, strict=False):
            if (column := self.columns[title]) is not None and title not in self.unlike:
                yield self._with_ours(Beside(name, title, value, width), row, column)
        whole = all(self.columns.values()) and len(self.ours.columns) == len(self.theirs.columns) + 1
        if whole and not self.unlike and self._weighed_alike:
            yield self._with_ours(Beside(name, AVERAGE.title, self.theirs.mean(name), widths[-1]), row, AVERAGE)

    @property
    def unlike(self) -> list[str]:
        """Columns that a model judged there and a likeness to the reference was measured in here."""
        return [name for name in self.theirs.judged if (column := self.columns[name]) and column.by_reference]

    @property
    def _weighed_alike(self) -> bool:
        """Whether our average weighs columns as theirs does."""
        theirs = self.theirs
        return theirs.average == (self.results.suite.average if theirs.kind in ("ability", "ablation") else "tasks")

    def _with_ours(self, value: Beside, row: TableRow, column: Column) -> Beside:
        """A published value with ours, our interval and how probable the difference is by chance."""
        cell = self.ours.cell(row, column)
        if cell.value is None or cell.coverage is not None:
            return replace(value, why=cell.note or "fewer than 95% of its items scored")
        error = self._error(value.published, row, column)
        if error is None:
            return replace(value, ours=cell.value, runs=cell.runs)
        half, gap = error.quantile(0.025), abs(cell.value - value.published)
        low, high = cell.value - half, cell.value + half
        if self.theirs.kind in ROLES:
            low, high = max(low, 0.0), min(high, 100.0)
        theirs = ((value.half_width or 0.0) / HALF_WIDTH) ** 2
        p_value = min(2 * error.with_variance(theirs).beyond(gap), 1.0)
        return replace(value, ours=cell.value, low=low, high=high, p_value=p_value, runs=cell.runs)

    def _error(self, published: float, row: TableRow, column: Column) -> Error | None:
        """The error of our value; None for what has no interval, such as costs."""
        kind = self.theirs.kind
        if kind == "ablation":
            found = self.ours.differences.get((row.name, column.name))
            return found.components.error if found else None
        if kind != "ability" and kind != "general":
            return None
        cell = self.ours.cell(row, column)
        if cell.low is not None and cell.high is not None:  # Table 2: the t-interval over training runs
            half = float(stats.t.ppf(0.975, cell.runs - 1))
            variance = ((cell.high - cell.low) / 2 / half) ** 2
            return Error(np.array([variance]), np.ones(1), cell.runs - 1).at_least(
                self._least(published, row, column, kind)
            )
        over = [one for one in self.ours.columns if one.name] if column is AVERAGE else [column]
        components = self.results.own_components(row, kind, over)
        return components.error.at_least(self._least(published, row, column, kind)) if components else None

    def _least(self, published: float, row: TableRow, column: Column, kind: Role) -> float:
        """The least variance to believe: scores that were all alike could have been others, if the paper is right."""
        cell = self.ours.cell(row, column)
        if cell.value is None or 0.0 < cell.value < SCALE:
            return 0.0
        items = sum(record.scored for record in self.results.of(row, column, kind).values())
        return published * (SCALE - published) / max(items, 1)

    def _notes(self, cells: Sequence[Beside], backbone: str) -> Iterator[str]:
        theirs = self.theirs
        if not _same(theirs, backbone):
            yield (
                f"The paper's backbone is {theirs.backbone}, ours is {backbone}: the differences are between models "
                "first."
            )
        lost = [name for names in (self.rows, self.columns) for name, one in names.items() if one is None]
        if lost:
            yield f"Not in this suite: {', '.join(lost)}."
        for name, (low, high) in theirs.ranges.items():
            yield f"Of {name} the paper gives {low:,.0f} to {high:,.0f}, over four tasks."
        if self.unlike:
            yield (
                f"Left out: {', '.join(self.unlike)}, which a model judged there, on a scale of its own, while here no "
                "model judged (likeness to the reference, chrF)."
            )
        if theirs.average == "unknown":
            yield "How the paper's averages weigh its columns is not known: they are not their mean, and not compared."
        for row, printed in theirs.misprinted().items() if theirs.average != "unknown" else ():
            if self.rows[row] is not None:
                yield (
                    f"{row}: the paper prints the average {printed:.{theirs.digits}f}; that of its columns is "
                    f"{theirs.mean(row):.{theirs.digits}f}."
                )
        if cells and theirs.averages and not any(cell.column == AVERAGE.title for cell in cells):
            yield "Without averages: the paper's and ours are over other columns, or weigh them otherwise."


def _find(name: str, known: Published, columns: Iterable[Column]) -> Column | None:
    """Our column of that title, in whatever spelling."""
    wanted = _spellings(name, known)
    return next((column for column in columns if _plain(column.title) in wanted), None)


def _find_row(name: str, known: Published, kind: Kind, rows: Iterable[TableRow]) -> TableRow | None:
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
