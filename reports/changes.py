"""Two runs held against each other: which scores moved significantly, what came and went, what differs.

A cell of both runs is compared on the items that both asked in the same words, one by one, by the paired statistics of
all tables; what is significant is judged among all differences of all tables. A difference is always this run minus the
other.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from esft_bench.reports.backbone_results import ROLES, BackboneResults, Column, Role, Run, TableRow
from esft_bench.reports.content import Content
from esft_bench.reports.formatting import ONE_TRAINING, interval, listing, number
from esft_bench.reports.manifest import mapping
from esft_bench.reports.statistics.error import Array
from esft_bench.reports.statistics.family import Family
from esft_bench.reports.statistics.paired import PairedDifference, paired_difference
from esft_bench.reports.tables.costs import TRAINING
from esft_bench.reports.tables.table import Key, Table, TableCell, averaged
from esft_bench.reports.tables.view import TableView, cost_entry, difference_entry, view
from esft_bench.spec.record import ItemScore, Record
from esft_bench.spec.results import read_items

SETTINGS = ("command", "suite", "digests", "engine", "judge", "seeds", "versions", "hardware", "git")
"""What of a manifest may explain a difference."""
TITLES: dict[Role, str] = {"ability": "Task ability", "general": "General ability"}


@dataclass(frozen=True)
class Setting:
    """A setting that the runs do not share; "–" where a run does not have it."""

    name: str
    other: str
    this: str


@dataclass(frozen=True)
class Changes:
    """What is to be said of two runs: `came` is in this one only, `went` in the other one only."""

    this: Content
    other: Content
    tables: Sequence[Table]
    costs: Sequence[Table]
    in_short: Sequence[str]
    came: Sequence[str]
    went: Sequence[str]
    settings: Sequence[Setting]
    remarks: Sequence[str]

    @property
    def names(self) -> tuple[str, str]:
        """How this run and the other one are called: the folders' names where they differ, else their paths."""
        this, other = self.this.folder, self.other.folder
        return (this.name, other.name) if this.name != other.name else (str(this), str(other))

    def views(self) -> list[TableView]:
        """The tables as they are shown, costs last."""
        return [*(view(one, difference_entry) for one in self.tables), *(view(one, cost_entry) for one in self.costs)]

    @property
    def left_out(self) -> list[str]:
        """What could not be used in either run."""
        read = zip(self.names, (self.this, self.other), strict=True)
        return [f"{name}: {sentence}" for name, content in read for sentence in content.left_out]


def changes(this: Content, other: Content) -> Changes:
    """Hold a run against another."""
    before = {report.backbone: report for report in other.backbones}
    shared = [(report, before[report.backbone]) for report in this.backbones if report.backbone in before]
    tables: list[Table] = []
    costs: list[Table] = []
    remarks: list[str] = []
    for now, then in shared:
        suffix = f" ({now.backbone})" if len(shared) > 1 else ""
        for role in ROLES:
            pair = _Pair(now.results, then.results, role)
            table = pair.table(f"{TITLES[role]}, difference{suffix}")
            tables += [table] if table.rows and table.columns else []
            remarks += pair.remarks()
        multiples = _costs(now.efficiency, then.efficiency, suffix)
        costs += [multiples] if multiples.cells else []
    tables = _marked(tables)
    here, there = _cells(this), _cells(other)
    return Changes(
        this,
        other,
        tables,
        costs,
        [_in_short(table) for table in tables],
        list(_only(here, there)),
        list(_only(there, here)),
        settings(this.manifest.raw, other.manifest.raw),
        remarks,
    )


def _marked(tables: Sequence[Table]) -> list[Table]:
    """The tables with what is significant among all differences in all of them."""
    family = Family()
    family.join(lambda: {(t.title, key): one.p_value for t in tables for key, one in t.differences.items()})
    return [
        replace(
            table,
            cells={
                key: replace(cell, mark="significant") if family.holds((table.title, key)) else cell
                for key, cell in table.cells.items()
            },
        )
        for table in tables
    ]


def settings(this: Mapping[str, Any], other: Mapping[str, Any]) -> list[Setting]:
    """Settings, versions and machines that differ, by their names in the manifest."""
    here, there = (
        {name: value for key in SETTINGS for name, value in _flat(key, manifest.get(key)).items()}
        for manifest in (this, other)
    )
    return [
        Setting(name, there.get(name, "–"), here.get(name, "–"))
        for name in dict.fromkeys([*there, *here])
        if here.get(name) != there.get(name)
    ]


@dataclass
class _Pair:
    """One role of one backbone in both runs; `reworded` counts answers to another question under the same id."""

    this: BackboneResults
    other: BackboneResults
    role: Role
    reworded: int = 0
    theirs: dict[str, Column] = field(init=False)
    columns: list[Column] = field(init=False)

    def __post_init__(self) -> None:
        self.theirs = {column.name: column for column in self.other.columns(self.role)}
        self.columns = [column for column in self.this.columns(self.role) if column.name in self.theirs]

    def table(self, title: str) -> Table:
        """This run minus the other, for the rows and columns of both."""
        known = {row.name for row in self.other.rows}
        rows = [row for row in self.this.rows if row.name in known]
        cells: dict[Key, TableCell] = {}
        found: dict[Key, PairedDifference] = {}
        for row in rows:
            found |= self._row(row)
            nothing = TableCell(note="no item was asked in both runs and scored alike")
            cells |= {(row.name, column.name): nothing for column in self.columns}
        cells |= {key: TableCell(one.estimate, one.low, one.high, one.runs) for key, one in found.items()}
        caption = "This run minus the other on the same items, in points with 95% interval; bold where significant."
        return Table(title, caption, rows, averaged(self.columns), cells, differences=found)

    def remarks(self) -> Iterator[str]:
        """What could not be paired."""
        for column in self.columns:
            here, there = _measure(column), _measure(self.theirs[column.name])
            if here != there:
                yield f"{column.title}: measured by {there} there and by {here} here, so it is not compared."
        if self.reworded:
            yield f"{self.reworded} answers were to another question under the same id, and are not compared."

    def _row(self, row: TableRow) -> dict[Key, PairedDifference]:
        """A row's differences, and their average where every column has one."""
        differences = {column.name: array for column in self.columns if (array := self._differences(row, column)).size}
        found = {(row.name, name): paired_difference([array]) for name, array in differences.items()}
        if len(differences) == len(self.columns):
            aligned = len({array.shape[0] for array in differences.values()}) == 1  # then rows are the same runs
            shared = self.role == "general" and aligned
            found[row.name, ""] = paired_difference(list(differences.values()), shared_runs=shared)
        return {key: one for key, one in found.items() if one is not None}

    def _differences(self, row: TableRow, column: Column) -> Array:
        """Paired differences [runs, items] of the training runs that both have; no items where there are none."""
        theirs = self.theirs[column.name]
        if _measure(column) != _measure(theirs):
            return np.empty((0, 0))
        ours, old = self.this.of(row, column, self.role), self.other.of(row, theirs, self.role)
        lines = [self._run(run, ours, old) for run in sorted(set(ours) & set(old))]
        ids = sorted({key for line in lines for key in line})
        return np.array([[line.get(key, np.nan) for key in ids] for line in lines], dtype=float)

    def _run(self, run: Run, ours: Mapping[Run, Record], old: Mapping[Run, Record]) -> dict[str, float]:
        """Differences in points by item id, of one training run."""
        here, there = _items(self.this, ours[run]), _items(self.other, old[run])
        both = [key for key in here if key in there]
        same = [key for key in both if here[key].prompt == there[key].prompt]
        self.reworded += len(both) - len(same)
        pairs = {key: (here[key].score, there[key].score) for key in same}
        return {key: 100.0 * (a - b) for key, (a, b) in pairs.items() if a is not None and b is not None}


def _items(results: BackboneResults, record: Record) -> dict[str, ItemScore]:
    return {item.id: item for item in read_items(results.folder, record)}


def _measure(column: Column) -> str:
    return f"{column.metric} ({column.judge})" if column.judge else column.metric


def _costs(now: Table, then: Table, suffix: str) -> Table:
    """What training costs now, as a multiple of what it cost."""
    cells: dict[Key, TableCell] = {}
    for key, cell in now.cells.items():
        before = then.cells.get(key, TableCell()).value
        if cell.value is not None and before:
            cells[key] = TableCell(cell.value / before)
    rows = [row for row in now.rows if any(name == row.name for name, _ in cells)]
    columns = [Column(metric, unit.header.partition(",")[0]) for metric, unit in TRAINING.items()]
    return Table(f"Costs, as a multiple{suffix}", "This run's mean cost over the other's.", rows, columns, cells)


def _in_short(table: Table) -> str:
    """What moved, in plain words."""
    titles = {row.name: row.title for row in table.rows} | {column.name: column.title for column in table.columns}
    moved = [key for key in table.differences if table.cells[key].mark == "significant"]
    if not table.differences:
        return f"{table.title}: nothing can be compared."
    if not moved:
        widest = max(one.high - one.low for one in table.differences.values()) / 2
        return (
            f"{table.title}: none of {len(table.differences)} differences is significant; intervals reach up to "
            f"±{number(widest)} points."
        )
    told = []
    for row, column in moved:
        one = table.differences[row, column]
        where = titles[column] if column else "average"
        told.append(f"{titles[row]} on {where} {interval(one.estimate, one.low, one.high)}")
    once = min(one.runs for one in table.differences.values()) == 1
    about = f" ({ONE_TRAINING})" if once else ""
    shown = told if len(told) <= 6 else [*told[:6], f"{len(told) - 6} more"]
    return f"{table.title}: {len(moved)} of {len(table.differences)} are significant: {listing(shown)}{about}."


Place = tuple[str, str, str, int, str]
"""Backbone, row, task, seed and benchmark of a record of a row itself, as they are called."""


def _cells(content: Content) -> list[Place]:
    """Where there are scores."""
    scored = [
        record for record in content.of_rows if record.role not in ("cost", "repeat") and record.state == "scored"
    ]
    return list(dict.fromkeys((r.backbone, r.method_title, r.task, r.seed, r.benchmark_title) for r in scored))


def _only(here: Sequence[Place], there: Sequence[Place]) -> Iterator[str]:
    """What is scored here and not there: whole backbones, rows, tasks, seeds and benchmarks, then single cells."""
    known_cells = set(there)
    left = [place for place in here if place not in known_cells]
    for position, word in ((0, "backbone"), (1, "row"), (4, "benchmark"), (2, "trained on"), (3, "seed")):
        known = {place[position] for place in there}
        new = list(dict.fromkeys(str(place[position]) for place in left if place[position] not in known))
        if new:
            yield f"{word}: {listing(new)}"
        left = [place for place in left if place[position] in known]
    unique = list(dict.fromkeys(f"{title} on {benchmark}" for _, title, _, _, benchmark in left))
    if unique:
        shown = unique if len(unique) <= 8 else [*unique[:8], f"{len(unique) - 8} more"]
        yield f"single scores: {listing(shown)}"


def _flat(name: str, value: Any) -> dict[str, str]:
    """A setting by dotted names."""
    if isinstance(value, Mapping):
        return {
            key: text for inner, one in mapping(value).items() for key, text in _flat(f"{name}.{inner}", one).items()
        }
    if value is None or value == "":
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
