"""All forms of a run's report, from one reading of its results; nothing is written where nothing changed.

Reports are made of            results.jsonl, manifest.json, items/, curves.jsonl, routing.json, opinions.jsonl,
                               calibration.json
inputs.py                      their digest, so that a run repeated draws nothing
content.py                     a run folder, read; backbone_report.py: what is said of one backbone
backbone_results.py            records and items by row, column and training run
statistics/  tables/  prose/   how sure a difference is; what each cell says; what it says in words
figures/                       pictures of the same numbers
markdown/  html/               the forms: each escapes and lays out the same content
"""

from pathlib import Path
from typing import TYPE_CHECKING

from esft_bench.reports import inputs
from esft_bench.spec.results import write_text

if TYPE_CHECKING:
    from esft_bench.reports.content import Content

MARKDOWN, HTML = "report.md", "report.html"
EQUAL_GAIN = "equal_gain.csv"
COMPARISON, COMPARISON_HTML = "comparison.md", "comparison.html"


def write_reports(run_folder: Path, *, draw: bool = True) -> "Content":
    """Write `report.md` and `report.html` into a run folder, from what is stored there; returns what was read.

    Where rows have curves, what is read of them stands in `equal_gain.csv` too.

    May be called at any time, also while the run goes on: what is missing is marked as missing. Figures
    are drawn into `figures/` of the run folder unless `draw` is off, as it is while a run goes on.
    """
    from esft_bench.reports.content import gather
    from esft_bench.reports.figures.gallery import gallery
    from esft_bench.reports.html import report as page
    from esft_bench.reports.markdown import report as text

    digest = inputs.digest(run_folder)
    inputs.forget(run_folder)
    content = gather(run_folder)
    drawn = gallery(content) if draw else None
    if readings := content.readings:
        write_text(run_folder / EQUAL_GAIN, readings)
    else:
        (run_folder / EQUAL_GAIN).unlink(missing_ok=True)
    write_text(run_folder / MARKDOWN, text.render(content, drawn))
    write_text(run_folder / HTML, page.render(content, drawn))
    inputs.remember(run_folder, digest if draw else "")
    return content


def write_if_changed(run_folder: Path) -> bool:
    """Write and draw the reports, unless that was done with the same inputs; returns whether it was done.

    The check reads files and imports nothing that computes or draws.
    """
    if inputs.remembered(run_folder) == inputs.digest(run_folder) and all(
        (run_folder / name).is_file() for name in (MARKDOWN, HTML)
    ):
        return False
    write_reports(run_folder)
    return True


def write_comparison(this: "Content", other: "Content") -> list[Path]:
    """Write `comparison.md` and `comparison.html` into this run's folder; returns their paths."""
    from esft_bench.reports.changes import changes
    from esft_bench.reports.html import changes as page
    from esft_bench.reports.markdown import changes as text

    found = changes(this, other)
    paths = [this.folder / COMPARISON, this.folder / COMPARISON_HTML]
    write_text(paths[0], text.render(found))
    write_text(paths[1], page.render(found))
    return paths
