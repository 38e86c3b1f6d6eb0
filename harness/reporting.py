"""Reports written again from what is stored. Imports nothing that computes, so that it takes seconds."""

from pathlib import Path

from harness.errors import UserError
from harness.files import full_disk_is_a_sentence
from reports.content import Content
from reports.forms import write_reports


def rewrite(folder: Path) -> Content:
    """Write a run's report, in all its forms, from its stored results; returns what was found there."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder.")
    with full_disk_is_a_sentence(folder / "report.md"):
        return write_reports(folder)
