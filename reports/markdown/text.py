"""Plain text as Markdown: the one place where anything is escaped, and tables that line up as plain text.

Widths are those of a terminal (`rich.cells`, which the command line draws with); tabulate would need wcwidth besides.
"""

import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from esft_bench.reports.formatting import Sentence, one_line
from esft_bench.reports.tables.view import EFFECT, Entry, Head, TableView

MARKS = {"best": "**", "significant": "**", "second": "*"}
INTERVAL = re.compile(r"(\[[−+\d.]+, [−+\d.]+\](?![(\[:]))")
"""The only brackets that stay as they are: a number pair that no address or label follows is no link."""
SPECIAL = re.compile(r"[\\|<`*\[\]~$]|&(?=#?\w+;)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
AT_THE_START = re.compile(r"^(?:(?=>|#{1,6}(?:\s|$)|[-+](?:\s|$)|[-=]+$)|(\d{1,9})(?=[.)](?:\s|$)))")
"""What would begin a quote, a heading or a list there."""


def escaped(text: str, limit: int | None = None) -> str:
    """One line of text that can't break a table or turn into markup, cut after `limit` characters."""
    pieces = INTERVAL.split(one_line(text, limit))
    safe = [piece if k % 2 else SPECIAL.sub(r"\\\g<0>", piece) for k, piece in enumerate(pieces)]
    return AT_THE_START.sub(r"\1\\", "".join(safe))


def code(text: str, limit: int | None = None) -> str:
    """A code span, where no markup works; "nothing" where the text is empty."""
    flat = one_line(text.replace("`", "'"), limit)
    return f"`{flat}`" if flat else "nothing"


def indented(text: str) -> str:
    """A line of code by itself."""
    return f"    {one_line(text)}"


def sentence(one: Sentence) -> str:
    """A sentence with its lead in bold."""
    return f"**{escaped(one.lead)}**: {escaped(one.text, 1000)}" if one.lead else escaped(one.text, 1000)


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def section(title: str, sentences: Sequence[str]) -> list[str]:
    """A section of plain sentences; nothing without one."""
    return [f"## {escaped(title)}", bullets(escaped(text, 1000) for text in sentences)] if sentences else []


def table_section(table: TableView, level: int = 2) -> list[str]:
    """A table under its title, with everything below it."""
    title = f"{'#' * level} {escaped(table.title)}"
    return [title, *([escaped(table.caption, 1000)] if table.caption else []), *table_blocks(table)]


def table_blocks(table: TableView) -> list[str]:
    """A table, its footnotes and the remark."""
    rows = [[escaped(title), *map(_entry, entries)] for title, entries in table.rows]
    foot = [[EFFECT, *map(_entry, table.foot)]] if table.foot else []
    found = [pipe_table(["", *map(_head, table.heads)], rows + foot)]
    found += [bullets(escaped(note, 1000) for note in table.notes)] if table.notes else []
    return found + ([escaped(table.remark)] if table.remark else [])


def pipe_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text; the first column left, the others right."""
    lines = [list(head), *[list(row) for row in body]]
    widths = [max(3, *(cell_len(row[k]) for row in lines)) for k in range(len(head))]
    rule = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]]
    padded = [[_pad(cell, widths[k], right=k > 0) for k, cell in enumerate(row)] for row in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]])


def _head(head: Head) -> str:
    return " ".join(escaped(word) for word in (head.title, head.mark, head.judge) if word)


def _entry(entry: Entry) -> str:
    """`**97.0** ± 0.9 (a)`."""
    mark = MARKS.get(entry.mark, "")
    letter = f"({entry.letter})" if entry.letter else ""
    return " ".join([f"{mark}{escaped(entry.text)}{mark}", *(escaped(one) for one in (entry.small, letter) if one)])


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space
