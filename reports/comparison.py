"""comparison.md and comparison.html: a run beside another one."""

from dataclasses import replace
from pathlib import Path

from esft_bench.reports.compare import Changes, changes
from esft_bench.reports.content import Content
from esft_bench.reports.html.grids import cost_entry, gap_entry, grid
from esft_bench.reports.html.page import fill
from esft_bench.reports.markdown import bullets, table_blocks
from esft_bench.reports.words import code, cost, difference, line, pipe_table, plain
from esft_bench.spec.results import write_text

MARKDOWN, HTML = "comparison.md", "comparison.html"
CAUTION = (
    "The same items were asked in both runs, so differences are paired item by item; with one training run a cell, "
    "resolved means resolved between these trained models, not between what was changed in general."
)


def write_comparison(this: Content, other: Content) -> list[Path]:
    """Write `comparison.md` and `comparison.html` into this run's folder; returns their paths."""
    found = changes(this, other)
    paths = [this.folder / MARKDOWN, this.folder / HTML]
    write_text(paths[0], as_markdown(found))
    write_text(paths[1], as_html(found))
    return paths


def as_markdown(found: Changes) -> str:
    """The comparison as text."""
    here, there = found.names
    blocks = [f"# {line(here)} against {line(there)}", f"    {found.this.command}", f"    {found.other.command}"]
    blocks += ["## What moved", "\n".join(f"- {sentence}" for sentence in [*found.in_short, CAUTION])]
    for table in found.tables:
        blocks += [f"## {line(table.title)}", table.caption, *table_blocks(table, difference)]
    for table in found.costs:
        blocks += [f"## {line(table.title)}", table.caption, *table_blocks(table, cost)]
    blocks += bullets(f"Only in {line(here)}", found.came)
    blocks += bullets(f"Only in {line(there)}", found.went)
    if found.settings:
        rows = [[line(one.name), line(one.other), line(one.this)] for one in found.settings]
        blocks += ["## What differs", pipe_table(["", line(there), line(here)], rows)]
    else:
        blocks += ["## What differs", "No setting, version or machine differs."]
    blocks += bullets("Remarks", [*found.remarks, *_left_out(found)])
    return "\n\n".join(blocks) + "\n"


def as_html(found: Changes) -> str:
    """The comparison as a page like the report's."""
    here, there = found.names
    return fill(
        "comparison.html.jinja",
        here=here,
        there=there,
        commands=[code(found.this.command), code(found.other.command)],
        found=found,
        moved=[plain(sentence) for sentence in found.in_short],
        caution=CAUTION,
        remarks=[*found.remarks, *_left_out(found)],
        tables=[replace(grid(table, table.title, gap_entry), after="") for table in found.tables],
        costs=[grid(table, table.title, cost_entry) for table in found.costs],
    )


def _left_out(found: Changes) -> list[str]:
    return [
        f"{name}: {sentence}"
        for name, content in zip(found.names, (found.this, found.other), strict=True)
        for sentence in content.left_out
    ]
