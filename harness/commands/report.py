"""Reports written again from what is stored. Imports nothing that computes, so that it takes seconds."""

from pathlib import Path

from esft_bench.reports.content import Content, gather
from esft_bench.reports.export import FOLDER, export
from esft_bench.reports.forms import write_comparison, write_reports
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import full_disk_is_a_sentence
from esft_bench.spec.results import write_copies


def rewrite(folder: Path) -> Content:
    """Write a run's report and tables, in all their forms, from its stored results; returns what was found there."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder.")
    with full_disk_is_a_sentence(folder / "report.md"):
        content = write_reports(folder)
        if content.backbones:
            write_copies(content.records, folder)
    return content


def compare(run: Content, other: Path) -> list[Path]:
    """Write what changed in a run against another one, into the first one's folder; returns the files."""
    if not other.is_dir():
        raise UserError(f"--against {other}: there is no such run folder.")
    before = gather(other)
    if not before.backbones:
        raise UserError(f"--against {other}: nothing can be read there ({' '.join(before.left_out)})")
    with full_disk_is_a_sentence(run.folder / "comparison.md"):
        return write_comparison(run, before)


def export_as(run: Content, form: str) -> Path:
    """Write a run in another project's format beside its report; returns the folder. There is `every-eval-ever`."""
    if form != "every-eval-ever":
        raise UserError(f"--export {form}: there is every-eval-ever.")
    with full_disk_is_a_sentence(run.folder / FOLDER):
        export(run)
    return run.folder / FOLDER
