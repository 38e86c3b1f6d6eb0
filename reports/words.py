"""How numbers and tables are written: plain text that a code host also renders."""

import math
import re
import unicodedata
from collections.abc import Sequence

from esft_bench.reports.scores import Column
from esft_bench.reports.tables import Cell

MISSING = "–"
SHORT = "†"
REFERENCE = "‡"
JUDGED = "§"


def number(value: float, signed: bool = False, digits: int = 1) -> str:
    """A number with a real minus sign: `−1.9`, `+4.0` where `signed`; never `−0.0`."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def interval(value: float, low: float, high: float) -> str:
    """A difference and its interval: `+4.0 [1.4, 6.8]`."""
    return f"{number(value, signed=True)} [{number(low)}, {number(high)}]"


def amount(value: float) -> str:
    """A cost, with about three significant digits and no exponent."""
    digits = 0 if abs(value) >= 1000 else min(4, max(0, 2 - math.floor(math.log10(abs(value))))) if value else 0
    return number(value, digits=digits)


def quantity(metric: str, value: float) -> str:
    """A cost record's value with its unit: `6.8 s`, `3.2 h`, `150 MB`, `42.1 GB`, `0.631 M parameters`."""
    if metric.endswith("_seconds"):
        for unit, size in (("h", 3600.0), ("min", 60.0)):
            if value >= 2 * size:
                return f"{amount(value / size)} {unit}"
        return f"{amount(value)} s"
    if metric.endswith("_bytes"):
        return f"{amount(value / 1e9)} GB" if value >= 1e10 else f"{amount(value / 1e6)} MB"
    return f"{amount(value / 1e6)} M parameters" if metric.endswith("_parameters") else amount(value)


def listing(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def line(text: str, limit: int = 300) -> str:
    """One line of text that can't break a table or turn into markup."""
    flat = " ".join(str(text).split())
    flat = flat if len(flat) <= limit else flat[: limit - 1] + "…"
    return "".join(f"\\{char}" if char in "\\|<`*[]" else char for char in flat)


def plain(text: str) -> str:
    """The text that `line` wrote, without its escapes."""
    return re.sub(r"\\([\\|<`*\[\]])", r"\1", text)


def code(text: str) -> str:
    """One line for a code span or block, where nothing is escaped."""
    return " ".join(str(text).split()).replace("`", "'")


def quoted(text: str, limit: int = 200) -> str:
    """What a model was told or said, in one line as code, where no markup works; "nothing" where it is empty."""
    flat = code(text)
    return f"`{flat if len(flat) <= limit else flat[: limit - 1] + '…'}`" if flat else "nothing"


def header(column: Column) -> str:
    """A column's header, with its judge where it has one."""
    title = line(column.title)
    if not column.judge:
        return title
    return f"{title} {REFERENCE if column.by_reference else JUDGED} {line(column.judge)}"


def score(cell: Cell) -> str:
    """A cell of Table 1 or 2: `97.0`, `80.8 ± 0.9`, bold or italic where marked; short coverage in place of a mark."""
    if cell.value is None:
        return MISSING
    text = number(cell.value)
    if cell.coverage is not None:
        return f"{text}{SHORT} ({math.floor(100 * cell.coverage)}% scored)"
    text = _marked(text, cell)
    if cell.low is not None and cell.high is not None:
        text += f" ± {number((cell.high - cell.low) / 2)}"
    return text


def difference(cell: Cell) -> str:
    """A cell of Table 3: a paired difference with its interval, bold where resolved."""
    if cell.value is None or cell.low is None or cell.high is None:
        return MISSING
    text = interval(cell.value, cell.low, cell.high)
    if cell.coverage is not None:
        return f"{text}{SHORT} ({math.floor(100 * cell.coverage)}% scored)"
    return _marked(text, cell)


def cost(cell: Cell) -> str:
    """A cell of the efficiency table."""
    return MISSING if cell.value is None else amount(cell.value)


def pipe_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A markdown table whose columns also line up as plain text; the first column left, the others right."""
    lines = [list(head), *[list(row) for row in body]]
    widths = [max(3, *(_width(row[k]) for row in lines)) for k in range(len(head))]
    rule = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]]
    padded = [[_pad(cell, widths[k], right=k > 0) for k, cell in enumerate(row)] for row in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]])


def _marked(text: str, cell: Cell) -> str:
    return {"best": f"**{text}**", "second": f"*{text}*", "": text}[cell.mark]


def _width(text: str) -> int:
    """Width on a terminal: wide East Asian characters take two columns, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
