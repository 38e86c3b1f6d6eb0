"""Tables that take seconds to make, noted in the store for the next time that the same is asked."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Span, Text

from esft_bench import harness, methods, reports, spec, tasks
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.keys import version
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_text

NOTES = ".tables"
SOURCES = (".py", ".yaml")
LIBRARIES = ("lm_eval", "numpy", "peft", "scipy", "torch", "transformers")
"""What else the tables' numbers depend on."""


def noted(store: Store, told: Mapping[str, Any], make: Callable[[], list[Table]]) -> list[Table]:
    """Tables that follow from what is `told`, in JSON, and our source; made where they are not noted."""
    whole = {**told, "source": _source(), "versions": {name: version(name) for name in LIBRARIES}}
    notes, name = store.notes(NOTES), digest_of_text(canonical(whole))[:20]
    if (known := notes.read(name)) is not None:
        return [_table(each) for each in known["tables"]]
    tables = make()
    with suppress(OSError, UserError):  # of a store that may only be read
        notes.write(name, {"tables": [_described(each) for each in tables]})
    return tables


@cache
def _source() -> str:
    """A digest of all our source: what a price follows from is spread over it, and reading it takes a moment."""
    total = hashlib.sha256()
    for package in (harness, methods, reports, spec, tasks):
        for folder in map(Path, package.__path__):
            for path in sorted(each for each in folder.rglob("*") if each.suffix in SOURCES):
                total.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def _described(table: Table) -> dict[str, Any]:
    """A table in JSON."""
    columns = [list(column.cells) for column in table.columns]
    return {
        "title": table.title,
        "caption": table.caption,
        "columns": [[column.header, column.justify] for column in table.columns],
        "rows": [[_cell(cell) for cell in row] for row in zip(*columns, strict=True)],
        "ends": [number for number, row in enumerate(table.rows) if row.end_section],
    }


def _cell(cell: Any) -> Any:
    """A cell in JSON: a string, or a text with what of it has which style."""
    if not isinstance(cell, Text):
        return cell
    return {"text": cell.plain, "spans": [[span.start, span.end, str(span.style)] for span in cell.spans]}


def _shown(told: Any) -> Any:
    """The cell again."""
    return told if isinstance(told, str) else Text(told["text"], spans=[Span(*span) for span in told["spans"]])


def _table(told: dict[str, Any]) -> Table:
    """The table again."""
    table = plain_table(told["title"])
    for header, justify in told["columns"]:
        table.add_column(header, justify=justify)
    for number, row in enumerate(told["rows"]):
        table.add_row(*map(_shown, row), end_section=number in told["ends"])
    table.caption = told["caption"]
    return table


def plain_table(title: str) -> Table:
    """A table as all of a plan's are: without lines, with title and caption to the left."""
    return Table(title=title, title_justify="left", caption_justify="left", box=None, pad_edge=False)
