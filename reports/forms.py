"""All forms of a run's report, from one reading of its results."""

from pathlib import Path

from esft_bench.reports import figures
from esft_bench.reports.content import Content, gather
from esft_bench.reports.html import write_html
from esft_bench.reports.markdown import REPORT, render
from esft_bench.spec.results import write_text


def write_reports(run_folder: Path, *, draw: bool = True) -> Content:
    """Write `report.md` and `report.html` into a run folder, from what is stored there; returns what was read.

    May be called at any time, also while the run goes on: what is missing is marked as missing. Figures
    are drawn into `figures/` of the run folder unless `draw` is off, as it is while a run goes on.
    """
    content = gather(run_folder)
    gallery = figures.gallery(content) if draw else None
    write_text(run_folder / REPORT, render(content, gallery))
    write_html(content, gallery)
    return content
