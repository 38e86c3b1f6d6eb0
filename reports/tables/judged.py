"""What a calibration says of judged columns: how far their judge agrees with the paper's, and what they are to it."""

from collections.abc import Sequence

import numpy as np

from esft_bench.reports.backbone_results import BackboneResults, Column, TableRow
from esft_bench.reports.calibration import Calibration
from esft_bench.reports.formatting import MISSING, bounds, number
from esft_bench.reports.statistics.agreement import debiased
from esft_bench.reports.tables.table import Table
from esft_bench.reports.tables.view import Entry, Head, TableView


def debiased_view(results: BackboneResults, entries: Sequence[Calibration]) -> TableView | None:
    """Each row's judged columns as the paper's judge would have scored them; None where no calibration fits one."""
    rectifiers = {name: entry for entry in entries for name in entry.benchmarks if entry.standard_error is not None}
    judged = (column for column in results.columns("ability") if column.name in rectifiers)
    columns = [column for column in judged if column.judge == rectifiers[column.name].judge]
    if not columns:
        return None
    rows = [
        (row.title, [_entry(results, row, column, rectifiers[column.name]) for column in columns])
        for row in results.rows
    ]
    against = ", ".join(sorted({rectifiers[column.name].against for column in columns}))
    answers = ", ".join(f"{column.title} {rectifiers[column.name].answers}" for column in columns)
    caption = (
        f"Mean and 95% interval over items. Added to our judge's mean is how much higher {against} scored the released "
        f"answers ({answers}), with the uncertainty of both (prediction-powered inference, Angelopoulos et al. 2023). "
        "It holds where our judge errs on these answers as on those; differences between rows stay as in Table 1."
    )
    return TableView(f"On the scale of {against}", caption, [Head(column.title) for column in columns], rows)


def agreement_note(table: Table, entries: Sequence[Calibration]) -> list[str]:
    """A note for below a table: how far the judge of each column agrees with the paper's; none where unknown."""
    known = {(name, entry.judge): entry for entry in entries for name in entry.benchmarks if entry.alpha is not None}
    found = [(one.title, known[one.name, one.judge]) for one in table.columns if (one.name, one.judge) in known]
    if not found:
        return []
    each = "; ".join(
        f"{title} alpha {number(entry.alpha or 0.0, digits=2)}, "
        + ("Spearman not defined" if entry.spearman is None else f"Spearman {number(entry.spearman, digits=2)}")
        for title, entry in found
    )
    return [f"Agreement of the judge with {found[0][1].against} on released answers: {each}."]


def _entry(results: BackboneResults, row: TableRow, column: Column, entry: Calibration) -> Entry:
    """One cell: an item's answers in several runs are averaged first."""
    scores = np.atleast_2d(results.item_scores([row], [column], "ability")[row.name][0])
    scored = scores[:, ~np.isnan(scores).any(axis=0)].mean(axis=0) if scores.size else np.array([])
    if scored.size < 2 or entry.standard_error is None:
        return Entry(MISSING)
    found = debiased(list(scored), -entry.difference, entry.standard_error)
    return Entry(number(found.estimate), bounds(found.low, found.high), found.estimate)
