"""Tables as a page shows them: what each cell says, what is said smaller, what it sorts by, how it is marked."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from esft_bench.reports.glance import Glance, Side
from esft_bench.reports.markdown import judges
from esft_bench.reports.paper import Beside, BesideTable
from esft_bench.reports.scores import Column
from esft_bench.reports.statistics import Comparison
from esft_bench.reports.summary import resolution
from esft_bench.reports.tables import COSTS, Cell, Table
from esft_bench.reports.words import JUDGED, MISSING, REFERENCE, SHORT, amount, number, plain


@dataclass(frozen=True)
class Entry:
    """A cell as it is shown: what it says, what is said smaller, what it sorts by, how it is marked."""

    text: str
    small: str = ""
    sort: float | None = None
    mark: str = ""
    letter: str = ""
    glyph: str = ""


@dataclass(frozen=True)
class Head:
    """A column's header; `mark` stands for its judge, `more` is shown on hovering; `words` where no numbers stand."""

    title: str
    mark: str = ""
    more: str = ""
    words: bool = False


@dataclass(frozen=True)
class Grid:
    """A table as it is shown."""

    name: str
    title: str
    caption: str
    heads: Sequence[Head]
    rows: Sequence[tuple[str, Sequence[Entry]]]
    foot: Sequence[Entry] = ()
    notes: Sequence[str] = ()
    after: str = ""
    first: str = "Method"


def slug(text: str) -> str:
    """A text as an id."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def grid(table: Table, title: str, write: Callable[[Cell], Entry]) -> Grid:
    """A table of the report, ready to be shown."""
    letters: dict[str, str] = {}
    rows = []
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        rows.append((row.title, [_with_letter(write(cell), cell.note, letters) for cell in cells]))
    deltas = [table.resolvable.get(column.name, float("nan")) for column in table.columns]
    known = any(delta == delta for delta in deltas)
    foot = [Entry(number(delta) if delta == delta else "") for delta in deltas] if known else []
    notes = [f"({letter}) {note}" for note, letter in letters.items()] + [plain(note) for note in judges(table)]
    heads = [_head(column, table) for column in table.columns]
    return Grid(slug(title), title, table.caption, heads, rows, foot, notes, plain(resolution(table)))


def _head(column: Column, table: Table) -> Head:
    judged = [one for one in table.columns if one.judge]
    if column.judge:
        return Head(column.title, REFERENCE if column.by_reference else JUDGED, column.judge)
    if not column.name and judged:
        return Head(column.title, REFERENCE if any(one.by_reference for one in judged) else JUDGED)
    return Head(column.title, more=column.metric)


def _with_letter(entry: Entry, note: str, letters: dict[str, str]) -> Entry:
    if not note:
        return entry
    count = len(letters)
    letter = letters.setdefault(note, chr(ord("a") + count % 26) * (count // 26 + 1))
    return Entry(entry.text, entry.small, entry.sort, entry.mark, f"({letter})", entry.glyph)


def score_entry(cell: Cell) -> Entry:
    """A score of Table 1 or 2."""
    if cell.value is None:
        return Entry(MISSING)
    small = f"± {number((cell.high - cell.low) / 2)}" if cell.low is not None and cell.high is not None else ""
    if cell.coverage is not None:
        return Entry(number(cell.value) + SHORT, f"{int(100 * cell.coverage)}% scored", cell.value)
    return Entry(number(cell.value), small, cell.value, cell.mark)


def gap_entry(cell: Cell) -> Entry:
    """A paired difference of Table 3, with its interval."""
    if cell.value is None or cell.low is None or cell.high is None:
        return Entry(MISSING)
    small = f"[{number(cell.low)}, {number(cell.high)}]"
    if cell.coverage is not None:
        return Entry(number(cell.value, signed=True) + SHORT, f"{small} {int(100 * cell.coverage)}% scored", cell.value)
    return Entry(number(cell.value, signed=True), small, cell.value, cell.mark)


def cost_entry(cell: Cell) -> Entry:
    """A cost."""
    return Entry(MISSING) if cell.value is None else Entry(amount(cell.value), sort=cell.value)


def beside_grid(table: BesideTable, suffix: str = "") -> Grid:
    """A paper's values beside ours."""
    heads = [Head("Column", words=True), *map(Head, ("Published", "Ours", "Difference")), Head("Resolved", words=True)]
    title = f"{table.title} ({table.source}){suffix}"
    rows = [(cell.row, _beside_entries(cell, table.digits)) for cell in table.cells]
    return Grid(f"beside-{slug(title)}", title, "", heads, rows, notes=[plain(note) for note in table.notes])


def _beside_entries(cell: Beside, digits: int) -> list[Entry]:
    width = f"± {number(cell.half_width, digits=digits)}" if cell.half_width is not None else ""
    known = cell.low is not None and cell.high is not None
    own = f"[{number(cell.low or 0.0)}, {number(cell.high or 0.0)}]" if known else ""
    gap = cell.difference
    return [
        Entry(cell.column),
        Entry(number(cell.published, digits=digits), width, cell.published),
        Entry(MISSING if cell.ours is None else number(cell.ours), own, cell.ours),
        Entry(MISSING if gap is None else number(gap, signed=True), "", gap, "best" if cell.resolved else ""),
        Entry({True: "yes", False: "no", None: MISSING}[cell.resolved], cell.why),
    ]


AT_A_GLANCE = ("train_seconds", "peak_memory_bytes", "stored_bytes")
"""Of the costs, those that most readers choose by."""


def glance_grid(seen: Glance, suffix: str = "") -> Grid:
    """What each row gains, forgets and costs, in one table with its intervals drawn."""
    costs = [metric for metric in AT_A_GLANCE if any(line.costs[metric].value is not None for line in seen.lines)]
    scales = [_scale([line.ability for line in seen.lines]), _scale([line.general for line in seen.lines])]
    heads = [
        Head("Task ability"),
        Head(f"against {seen.best}" if seen.best else "against the best"),
        Head("General ability"),
        Head(f"against {seen.base}" if seen.base else "against the base"),
        *[Head(COSTS[metric][0]) for metric in costs],
    ]
    rows = []
    for line in seen.lines:
        entries = [
            score_entry(line.ability.cell),
            _against_entry(line.ability, scales[0]),
            Entry(number(line.general.cell.value) if line.general.cell.value is not None else MISSING,
                  sort=line.general.cell.value),
            _against_entry(line.general, scales[1]),
            *[cost_entry(line.costs[metric]) for metric in costs],
        ]  # fmt: skip
        rows.append((line.row.title, entries))
    caption = (
        "Averages over the columns of Tables 1 and 2, and paired differences with their 95% intervals. "
        "A filled dot is a resolved difference, a ring one that is not."
    )
    return Grid(f"at-a-glance{slug(suffix)}", f"At a glance{suffix}", caption, heads, rows)


def _scale(sides: Sequence[Side]) -> tuple[float, float]:
    """From where to where differences are drawn: all intervals and zero, but for outliers, which stand at the edge."""
    found = [side.difference for side in sides if side.difference is not None]
    reach = 3.0 * float(np.median([abs(one.estimate) for one in found])) if found else 1.0
    low = min([0.0, *(max(one.low, -reach) for one in found)])
    high = max([0.0, *(min(one.high, reach) for one in found)])
    return (low, high) if high > low else (-1.0, 1.0)


def _against_entry(side: Side, scale: tuple[float, float]) -> Entry:
    if side.reference:
        return Entry("reference", sort=0.0, mark="quiet")
    found = side.difference
    if found is None:
        return Entry(MISSING)
    small = f"[{number(found.low)}, {number(found.high)}]"
    return Entry(number(found.estimate, signed=True), small, found.estimate, "", "", glyph(found, scale, side.resolved))


def glyph(found: Comparison, scale: tuple[float, float], resolved: bool | None) -> Markup:
    """An interval as a small drawing: a tick at zero, a line from low to high, a dot at the estimate."""
    first, last = scale

    def at(value: float) -> str:
        return f"{6 + 98 * (max(first, min(last, value)) - first) / (last - first):.1f}"

    return Markup(
        '<svg class="interval {kind}" viewBox="0 0 110 16" role="img" aria-label="{what}">'
        '<line class="zero" x1="{zero}" x2="{zero}" y1="1" y2="15"/>'
        '<line class="range" x1="{low}" x2="{high}" y1="8" y2="8"/><circle cx="{dot}" cy="8" r="3.5"/></svg>'
    ).format(
        kind="sure" if resolved else "open",
        what="resolved" if resolved else "not resolved",
        zero=at(0.0),
        low=at(found.low),
        high=at(found.high),
        dot=at(found.estimate),
    )
