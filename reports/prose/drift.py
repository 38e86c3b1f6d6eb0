"""What is said of forgetting where no general benchmark was asked: how far rows have moved, in bits."""

from collections.abc import Sequence

import numpy as np

from esft_bench.reports.backbone_results import BackboneResults, Column, TableRow
from esft_bench.reports.formatting import listing, number


def moved(results: BackboneResults, rows: Sequence[TableRow], base: TableRow | None, task: str) -> str:
    """Rows' drift after a task (all where it is empty) beside the base model's; empty where none was measured.

    These are means without a test: drift is not among the comparisons of a report.
    """
    told = []
    for column in results.columns("drift"):
        known = [(row.title, _mean(results, row, column, task)) for row in rows]
        before = _mean(results, base, column, "") if base is not None else None
        said = [f"{title} {number(value, digits=3)}" for title, value in known if value is not None]
        if said:
            beside = f" (base model {number(before, digits=3)})" if before is not None else ""
            told.append(f"{column.title}: {listing(said)}{beside}")
    if not told:
        return ""
    return f"No general benchmark was asked; drift in bits, the less the better, is {'; '.join(told)}."


def _mean(results: BackboneResults, row: TableRow, column: Column, task: str) -> float | None:
    records = results.of(row, column, "drift")
    values = [one.value for (after, _), one in records.items() if task in ("", after) and one.value is not None]
    return float(np.mean(values)) if values else None
