"""comparison.html: a run beside another one, as a page like the report's."""

from esft_bench.reports.changes import Changes
from esft_bench.reports.html.template import fill
from esft_bench.reports.prose.reading import CHANGES


def render(found: Changes) -> str:
    """Return the page."""
    return fill("comparison.html.jinja", found=found, here=found.names[0], there=found.names[1], caution=CHANGES)
