"""report.html: no network, light and dark, sortable, printable, and readable without its script."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from esft_bench.reports.content import Content
from esft_bench.reports.figures.canvas import Gallery
from esft_bench.reports.html.svg import inline
from esft_bench.reports.html.template import fill
from esft_bench.reports.prose.reading import ADVICE, BESIDE, JUDGE, how_to_read
from esft_bench.reports.samples import KINDS
from esft_bench.spec.results import JSONL

FACTS = {
    "git": "Code",
    "versions": "Versions",
    "hardware": "Machine",
    "seeds": "Seeds",
    "started": "Started",
    "finished": "Finished",
    "states": "Cells",
}
"""How the page calls what the manifest says."""


def render(content: Content, gallery: Gallery | None = None) -> str:
    """Return the page, with the figures that were drawn. The same run gives the same bytes."""
    drawn = gallery.drawn if gallery else []
    figures = [(figure, inline(figure.svg.read_text("utf-8"), figure.name, figure.title)) for figure in drawn]
    return fill(
        "report.html.jinja",
        content=content,
        suite=content.manifest.suite,
        backbones=content.backbones,
        figures=[(figure, svg) for figure, svg in figures if svg is not None],
        missing=gallery.missing if gallery else [],
        about_advice=ADVICE,
        about_beside=BESIDE,
        judge_title=JUDGE,
        samples=[asdict(sample) for backbone in content.backbones for sample in backbone.samples],
        kinds=KINDS,
        records=content.records,
        updated=_updated(content.folder) if content.manifest.at_work else "",
        facts=[(title, content.facts[key]) for key, title in FACTS.items() if key in content.facts],
        reading=how_to_read("Underlined", content.manifest.suite.same_within),
    )


def _updated(folder: Path) -> str:
    """When the results were last written, for a run at work."""
    path = folder / JSONL
    if not path.is_file():
        return ""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
