"""All forms of a run's report, from one reading of its results."""

from pathlib import Path

from reports.content import Content, gather
from reports.html import write_html
from reports.markdown import REPORT, render
from reports.results import write_text


def write_reports(run_folder: Path) -> Content:
    """Write `report.md` and `report.html` into a run folder, from what is stored there; returns what was read.

    May be called at any time, also while the run goes on: what is missing is marked as missing.
    """
    content = gather(run_folder)
    write_text(run_folder / REPORT, render(content))
    write_html(content)
    return content
