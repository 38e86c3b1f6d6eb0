"""A table as it is shown, the same in every form of the report: plain text, which the form escapes and lays out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import floor, isnan

import numpy as np

from esft_bench.reports.backbone_results import Column
from esft_bench.reports.formatting import (
    JUDGED,
    MISSING,
    ONE_TRAINING,
    REFERENCE,
    SAME,
    SHORT,
    amount,
    bounds,
    number,
    points,
)
from esft_bench.reports.tables.costs import TRAINING
from esft_bench.reports.tables.glance import Glance, Side
from esft_bench.reports.tables.paper import Beside, BesideTable
from esft_bench.reports.tables.remarks import footnotes, undecided
from esft_bench.reports.tables.table import Table, TableCell

EFFECT = "minimum detectable effect"


@dataclass(frozen=True)
class Range:
    """An interval to be drawn on a common scale: places from 0 to 1, and whether the difference is significant."""

    low: float
    estimate: float
    high: float
    zero: float
    significant: bool


@dataclass(frozen=True)
class Entry:
    """A cell as it is shown: what it says, what is said smaller, what it sorts by, how it is marked."""

    text: str
    small: str = ""
    sort: float | None = None
    mark: str = ""
    letter: str = ""
    range: Range | None = None


@dataclass(frozen=True)
class Head:
    """A column's header with the mark of its judge, the judge and the metric; `words` where no numbers stand."""

    title: str
    mark: str = ""
    judge: str = ""
    metric: str = ""
    words: bool = False


@dataclass(frozen=True)
class TableView:
    """A table as it is shown: title and caption above, rows of entries, a foot row, notes and a remark below."""

    title: str
    caption: str
    heads: Sequence[Head]
    rows: Sequence[tuple[str, Sequence[Entry]]]
    foot: Sequence[Entry] = ()
    notes: Sequence[str] = ()
    remark: str = ""
    first: str = "Method"

    def titled(self, suffix: str) -> "TableView":
        """The same table with a longer title."""
        return replace(self, title=self.title + suffix)


def view(table: Table, write: Callable[[TableCell], Entry]) -> TableView:
    """A table with its footnotes and what is to be remarked."""
    table = table.shown
    letters: dict[str, str] = {}
    rows = []
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        rows.append((row.title, [replace(write(cell), letter=_letter(cell.note, letters)) for cell in cells]))
    effects = [table.detectable.get(column.name, float("nan")) for column in table.columns]
    foot = [Entry("" if isnan(effect) else number(effect)) for effect in effects]
    notes = [f"({letter}) {note}" for note, letter in letters.items()] + list(footnotes(table))
    heads = [_head(column, table) for column in table.columns]
    shown = [] if all(map(isnan, effects)) else foot
    return TableView(
        table.title, table.caption, heads, rows, shown, notes, f"{undecided(table)} {table.remark}".strip()
    )


def _head(column: Column, table: Table) -> Head:
    """A column's header; an average over judged columns is marked too."""
    if column.judge:
        return Head(column.title, REFERENCE if column.by_reference else JUDGED, column.judge)
    judged = [one for one in table.columns if one.judge and not column.name]
    mark = (REFERENCE if any(one.by_reference for one in judged) else JUDGED) if judged else ""
    return Head(column.title, mark, metric=column.metric)


def _letter(note: str, letters: dict[str, str]) -> str:
    """`a` for a note, the same letter for the same note; nothing without one."""
    count = len(letters)
    return letters.setdefault(note, chr(ord("a") + count % 26) * (count // 26 + 1)) if note else ""


def score_entry(cell: TableCell) -> Entry:
    """A score of Table 1 or 2: `97.0`, `80.8 ± 0.9`; too small a coverage in place of a mark."""
    if cell.value is None:
        return Entry(MISSING)
    if cell.coverage is not None:
        return Entry(number(cell.value) + SHORT, f"({floor(100 * cell.coverage)}% scored)", cell.value)
    known = cell.low is not None and cell.high is not None
    small = f"± {number(((cell.high or 0.0) - (cell.low or 0.0)) / 2)}" if known else ""
    return Entry(number(cell.value), small, cell.value, cell.mark)


def reading_entry(digits: int) -> Callable[[TableCell], Entry]:
    """How a reading of a curve is shown, or a mean with its interval: `1.9 [1.2, 2.7]`."""

    def write(cell: TableCell) -> Entry:
        if cell.value is None:
            return Entry(MISSING)
        known = cell.low is not None and cell.high is not None
        small = bounds(cell.low or 0.0, cell.high or 0.0, digits) if known else ""
        return Entry(number(cell.value, digits=digits), small, cell.value, cell.mark)

    return write


def difference_entry(cell: TableCell) -> Entry:
    """A paired difference, with its interval."""
    if cell.value is None or cell.low is None or cell.high is None:
        return Entry(MISSING)
    text, small = number(cell.value, signed=True), bounds(cell.low, cell.high)
    if cell.coverage is not None:
        return Entry(text + SHORT, f"{small} ({floor(100 * cell.coverage)}% scored)", cell.value)
    small = f"{small} {SAME}" if cell.mark == "same" else small
    return Entry(text, small, cell.value, "" if cell.mark == "same" else cell.mark)


def cost_entry(cell: TableCell) -> Entry:
    """A cost."""
    return Entry(MISSING) if cell.value is None else Entry(amount(cell.value), sort=cell.value)


def beside_view(table: BesideTable) -> TableView:
    """A paper's values beside ours."""
    words, numbers = ("Column", "Significant"), ("Published", "Ours", "Difference")
    heads = [Head(words[0], words=True), *map(Head, numbers), Head(words[1], words=True)]
    rows = [(cell.row, _beside_entries(cell, table.digits)) for cell in table.cells]
    return TableView(f"{table.title} ({table.source})", "", heads, rows, notes=table.notes)


def _beside_entries(cell: Beside, digits: int) -> list[Entry]:
    width = f"± {number(cell.half_width, digits=digits)}" if cell.half_width is not None else ""
    own = "" if cell.low is None or cell.high is None else bounds(cell.low, cell.high)
    gap = cell.difference
    mark = "significant" if cell.significant else ""
    why = f"({cell.why})" if cell.why else ""
    return [
        Entry(cell.column),
        Entry(number(cell.published, digits=digits), width, cell.published),
        Entry(MISSING if cell.ours is None else number(cell.ours), own, cell.ours),
        Entry(MISSING if gap is None else number(gap, signed=True), "", gap, mark),
        Entry({True: "yes", False: "no", None: MISSING}[cell.significant], why),
    ]


AT_A_GLANCE = ("train_seconds", "peak_memory_bytes", "stored_bytes")
"""Of the costs, those that most readers choose by."""


def glance_view(seen: Glance) -> TableView:
    """What each row gains, forgets and costs, in one table with its intervals drawn."""
    costs = [metric for metric in AT_A_GLANCE if any(line.costs[metric].value is not None for line in seen.lines)]
    scales = [_scale([line.ability for line in seen.lines]), _scale([line.general for line in seen.lines])]
    heads = [
        Head("Task ability"),
        Head(f"against {seen.best}" if seen.best else "against the best"),
        Head("General ability"),
        Head(f"against {seen.base}" if seen.base else "against the base"),
        *[Head(TRAINING[metric].header) for metric in costs],
    ]
    rows = []
    for line in seen.lines:
        general = line.general.cell.value
        entries = [
            score_entry(line.ability.cell),
            _side_entry(line.ability, scales[0]),
            Entry(MISSING if general is None else number(general), sort=general),
            _side_entry(line.general, scales[1]),
            *[cost_entry(line.costs[metric]) for metric in costs],
        ]
        rows.append((line.row.title, entries))
    caption = (
        "Averages over the columns of Tables 1 and 2, and paired differences with their 95% intervals. "
        "A filled dot is a significant difference, a ring one that is not; "
        f"{SAME}: the same within {points(seen.margin)}."
    )
    sides = [side.difference for line in seen.lines for side in (line.ability, line.general) if side.difference]
    once = any(found.runs == 1 for found in sides)
    caption += f" Of task ability: {ONE_TRAINING}." if once else ""
    return TableView("At a glance", caption, heads, rows)


def _scale(sides: Sequence[Side]) -> tuple[float, float]:
    """From where to where differences are drawn: all intervals and zero, but for outliers, which stand at the edge."""
    found = [side.difference for side in sides if side.difference is not None]
    reach = 3.0 * float(np.median([abs(one.estimate) for one in found])) if found else 1.0
    low = min([0.0, *(max(one.low, -reach) for one in found)])
    high = max([0.0, *(min(one.high, reach) for one in found)])
    return (low, high) if high > low else (-1.0, 1.0)


def _side_entry(side: Side, scale: tuple[float, float]) -> Entry:
    """A difference to the row that the side is held against, with its interval to be drawn."""
    if side.reference:
        return Entry("reference", sort=0.0, mark="quiet")
    found = side.difference
    if found is None:
        return Entry(MISSING)
    first, last = scale

    def place(value: float) -> float:
        return (max(first, min(last, value)) - first) / (last - first)

    drawn = Range(place(found.low), place(found.estimate), place(found.high), place(0.0), bool(side.significant))
    text, small = number(found.estimate, signed=True), bounds(found.low, found.high)
    return Entry(text, f"{small} {SAME}" if side.same else small, found.estimate, range=drawn)
