"""comparison.md: a run beside another one, as text."""

from esft_bench.reports.changes import Changes
from esft_bench.reports.markdown.text import bullets, escaped, indented, pipe_table, section, table_section
from esft_bench.reports.prose.reading import CHANGES


def render(found: Changes) -> str:
    """Return the comparison as Markdown."""
    here, there = map(escaped, found.names)
    text = [f"# {here} against {there}"]
    text += [indented(content.manifest.command) for content in (found.this, found.other)]
    text += ["## What moved", bullets(escaped(one, 2000) for one in [*found.in_short, CHANGES])]
    text += [block for table in found.views() for block in table_section(table)]
    text += section(f"Only in {found.names[0]}", found.came) + section(f"Only in {found.names[1]}", found.went)
    text += ["## What differs"]
    if found.settings:
        rows = [[escaped(one.name), escaped(one.other, 300), escaped(one.this, 300)] for one in found.settings]
        text += [pipe_table(["", there, here], rows)]
    else:
        text += ["No setting, version or machine differs."]
    text += section("Remarks", [*found.remarks, *found.left_out])
    return "\n\n".join(text) + "\n"
