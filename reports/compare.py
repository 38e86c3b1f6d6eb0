"""Two runs held against each other: which scores moved and whether that is resolved, what came and went, what differs.

A cell of both runs is compared on the items that both asked in the same words, one by one, by the paired statistics of
all tables; Holm's correction is over the differences of a table. A difference is always this run minus the other.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esft_bench.reports.blocks import Array
from esft_bench.reports.content import Content, Part, mapping
from esft_bench.reports.scores import Column, Role, Row, Scores
from esft_bench.reports.statistics import Comparison, compare, holm
from esft_bench.reports.tables import ALPHA, AVERAGE, COSTS, Cell, Table
from esft_bench.reports.words import interval, line, listing, number
from esft_bench.spec.record import ItemScore, Record
from esft_bench.spec.results import read_items

SETTINGS = ("command", "suite", "digests", "engine", "judge", "seeds", "versions", "hardware", "git")
"""What of a manifest may explain a difference."""


@dataclass(frozen=True)
class Difference:
    """A setting that the runs do not share; "–" where a run does not have it."""

    name: str
    other: str
    this: str


@dataclass(frozen=True)
class Changes:
    """What is to be said of two runs."""

    this: Content
    other: Content
    tables: Sequence[Table]
    costs: Sequence[Table]
    in_short: Sequence[str]
    came: Sequence[str]
    went: Sequence[str]
    settings: Sequence[Difference]
    remarks: Sequence[str]

    @property
    def names(self) -> tuple[str, str]:
        """How this run and the other one are called: the folders' names where they differ, else their paths."""
        this, other = self.this.folder, self.other.folder
        return (this.name, other.name) if this.name != other.name else (str(this), str(other))


def changes(this: Content, other: Content) -> Changes:
    """Hold a run against another."""
    tables, costs, remarks = [], [], []
    before = {part.backbone: part for part in other.parts}
    shared = [(part, before[part.backbone]) for part in this.parts if part.backbone in before]
    for part, old in shared:
        suffix = f" ({part.backbone})" if len(shared) > 1 else ""
        found, said = _tables(part, old, suffix)
        tables += found
        remarks += said
        costs += _costs(part, old, suffix)
    here, there = _cells(this), _cells(other)
    return Changes(
        this,
        other,
        tables,
        costs,
        _in_short(tables),
        _only(here, there),
        _only(there, here),
        differences(this.manifest, other.manifest),
        remarks,
    )


def differences(this: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """Settings, versions and machines that differ, by their names in the manifest."""
    here, there = (
        {name: value for key in SETTINGS for name, value in _flat(key, manifest.get(key)).items()}
        for manifest in (this, other)
    )
    return [
        Difference(name, there.get(name, "–"), here.get(name, "–"))
        for name in dict.fromkeys([*there, *here])
        if here.get(name) != there.get(name)
    ]


def _tables(part: Part, old: Part, suffix: str) -> tuple[list[Table], list[str]]:
    """The differences in task ability and in general ability, and what could not be paired."""
    tables, remarks = [], []
    titles: dict[Role, str] = {"ability": "Task ability", "general": "General ability"}
    for role, title in titles.items():
        table, said = _table(part.scores, old.scores, role, f"{title}, difference{suffix}")
        if table.rows and table.columns:
            tables.append(table)
        remarks += said
    return tables, remarks


def _table(this: Scores, other: Scores, role: Role, title: str) -> tuple[Table, list[str]]:
    """This run minus the other, for the rows and columns of both."""
    theirs = {column.name: column for column in other.columns(role)}
    columns = [column for column in this.columns(role) if column.name in theirs]
    known = {row.name for row in other.rows}
    rows = [row for row in this.rows if row.name in known]
    remarks = [
        f"{column.title}: measured by {_measure(theirs[column.name])} there and by {_measure(column)} here, so it is "
        "not compared."
        for column in columns
        if _measure(column) != _measure(theirs[column.name])
    ]
    cells: dict[tuple[str, str], Cell] = {}
    found: dict[tuple[str, str], Comparison] = {}
    reworded = 0
    for row in rows:
        blocks: list[Array] = []
        for column in columns:
            block, lost = _block(this, other, row, column, theirs[column.name], role)
            reworded += lost
            comparison = compare([block]) if block is not None else None
            if block is None or comparison is None:
                cells[row.name, column.name] = Cell(note="no item was asked in both runs and scored alike")
                continue
            blocks.append(block)
            found[row.name, column.name] = comparison
        whole = (
            compare(blocks, shared_runs=role == "general" and _aligned(blocks)) if len(blocks) == len(columns) else None
        )
        if whole is not None:
            found[row.name, ""] = whole
    adjusted = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))
    for key, one in found.items():
        cells[key] = Cell(one.estimate, one.low, one.high, one.runs, "best" if adjusted[key] <= ALPHA else "")
    if reworded:
        remarks.append(f"{reworded} answers were to another question under the same id, and are not compared.")
    caption = "This run minus the other on the same items, in points with 95% interval; bold where resolved."
    return Table(title, caption, rows, [*columns, AVERAGE] if columns else [], cells, comparisons=found), remarks


def _block(
    this: Scores, other: Scores, row: Row, column: Column, theirs: Column, role: Role
) -> tuple[Array | None, int]:
    """Paired differences [runs, items] of the training runs that both have, and how many items were reworded."""
    if _measure(column) != _measure(theirs):
        return None, 0
    ours, old = this.of(row, column, role), other.of(row, theirs, role)
    lines: list[dict[str, float]] = []
    reworded = 0
    for run in sorted(set(ours) & set(old)):
        here, there = _items(this, ours[run]), _items(other, old[run])
        both = [key for key in here if key in there]
        same = [key for key in both if here[key].prompt == there[key].prompt]
        reworded += len(both) - len(same)
        line = {}
        for key in same:
            new, before = here[key].score, there[key].score
            if new is not None and before is not None:
                line[key] = 100.0 * (new - before)
        lines.append(line)
    ids = sorted({key for line in lines for key in line})
    if not ids:
        return None, reworded
    return np.array([[line.get(key, np.nan) for key in ids] for line in lines], dtype=float), reworded


def _items(scores: Scores, record: Record) -> dict[str, ItemScore]:
    return {item.id: item for item in read_items(scores.folder, record)}


def _aligned(blocks: Sequence[Array]) -> bool:
    """Whether all blocks have the same number of training runs, so that their rows are the same ones."""
    return len({block.shape[0] for block in blocks}) == 1


def _measure(column: Column) -> str:
    return f"{column.metric} ({column.judge})" if column.judge else column.metric


def _costs(part: Part, old: Part, suffix: str) -> list[Table]:
    """What training costs now, as a multiple of what it cost."""
    cells: dict[tuple[str, str], Cell] = {}
    for key, cell in part.efficiency.cells.items():
        before = old.efficiency.cells.get(key, Cell()).value
        if cell.value is not None and before:
            cells[key] = Cell(cell.value / before)
    rows = [row for row in part.scores.rows if any(name == row.name for name, _ in cells)]
    columns = [Column(metric, title.partition(",")[0]) for metric, (title, _) in COSTS.items()]
    table = Table(f"Costs, as a multiple{suffix}", "This run's mean cost over the other's.", rows, columns, cells)
    return [table] if cells else []


def _in_short(tables: Sequence[Table]) -> list[str]:
    """What moved, in plain words, escaped as `words.line` does."""
    sentences = []
    for table in tables:
        titles = {row.name: row.title for row in table.rows} | {column.name: column.title for column in table.columns}
        moved = [key for key in table.comparisons if table.cells[key].mark == "best"]
        if not table.comparisons:
            sentences.append(f"{table.title}: nothing can be compared.")
            continue
        if not moved:
            widest = max(one.high - one.low for one in table.comparisons.values()) / 2
            sentences.append(
                f"{table.title}: none of {len(table.comparisons)} differences is resolved; intervals reach up to "
                f"±{number(widest)} points."
            )
            continue
        told = []
        for row, column in moved:
            one = table.comparisons[row, column]
            where = titles[column] if column else "average"
            told.append(f"{line(titles[row])} on {line(where)} {interval(one.estimate, one.low, one.high)}")
        shown = told if len(told) <= 6 else [*told[:6], f"{len(told) - 6} more"]
        sentences.append(f"{table.title}: {len(moved)} of {len(table.comparisons)} are resolved: {listing(shown)}.")
    return sentences


def _cells(content: Content) -> dict[tuple[str, str, str, int, str], Record]:
    """Scored records by backbone, row, task, seed and benchmark."""
    return {
        (part.backbone, record.method_title, record.task, record.seed, record.benchmark_title): record
        for part in content.parts
        for record in part.scores.records
        if record.role != "cost" and record.state == "scored"
    }


def _only(here: Mapping[tuple[str, str, str, int, str], Record], there: Mapping[Any, Any]) -> list[str]:
    """What is scored here and not there: whole backbones, rows, tasks, seeds and benchmarks, then single cells."""
    left = [key for key in here if key not in there]
    sentences = []
    for place, word in ((0, "backbone"), (1, "row"), (4, "benchmark"), (2, "trained on"), (3, "seed")):
        known = {key[place] for key in there}
        new = list(dict.fromkeys(str(key[place]) for key in left if key[place] not in known))
        if new:
            sentences.append(f"{word}: {listing(new)}")
        left = [key for key in left if key[place] in known]
    named = [f"{title} on {benchmark}" for _, title, _, _, benchmark in left]
    if named:
        unique = list(dict.fromkeys(named))
        shown = unique if len(unique) <= 8 else [*unique[:8], f"{len(unique) - 8} more"]
        sentences.append(f"single scores: {listing(shown)}")
    return sentences


def _flat(name: str, value: Any) -> dict[str, str]:
    """A setting by dotted names."""
    if isinstance(value, Mapping):
        return {
            key: text for inner, one in mapping(value).items() for key, text in _flat(f"{name}.{inner}", one).items()
        }
    if value is None or value == "":
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
