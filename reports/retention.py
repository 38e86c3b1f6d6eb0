"""What training on one task after another leaves of the earlier ones.

    retained performance ratio = score on a task after the later trainings / score right after its own     (Eq. 1)

Source: the expert-concentration paper, Table 3, whose definition is not public in full; Eq. 1 is this project's
reading.
"""

from collections.abc import Mapping

import numpy as np

from esft_bench.reports.scores import Column, Scores
from esft_bench.reports.tables import Cell, Table
from esft_bench.spec.record import Record


def retention_table(scores: Scores) -> Table | None:
    """Eq. 1 in per cent for every row that goes on from another one; None where no row does.

    The score before is that of the other row's own cell with the same seed.
    """
    retained = [record for record in scores.records if record.role == "retained"]
    if not retained:
        return None
    columns = {record.benchmark: Column(record.benchmark, record.benchmark_title) for record in retained}
    rows = [row for row in scores.rows if any(record.method == row.name for record in retained)]
    cells = {
        (row.name, name): _cell(scores, [r for r in retained if (r.method, r.benchmark) == (row.name, name)])
        for row in rows
        for name in columns
    }
    caption = (
        "What is left, in per cent, of the score on a task once other tasks have been trained on after it: the score "
        "then, divided by that of the row it goes on from; mean over the later tasks and seeds, without an interval."
    )
    return Table("Retained performance", caption, rows, list(columns.values()), cells)


def _cell(scores: Scores, records: list[Record]) -> Cell:
    """The mean ratio of a row's records on a benchmark to those of the row it goes on from."""
    ratios = []
    for record in records:
        before = _before(scores, record)
        if record.value is not None and before is not None and before.value:
            ratios.append(100.0 * record.value / before.value)
    if not ratios:
        return Cell(note="no score before and after, or none above 0 before")
    note = "" if len(ratios) == len(records) else f"{len(ratios)} of {len(records)} runs"
    return Cell(float(np.mean(ratios)), runs=len(ratios), note=note)


def _before(scores: Scores, record: Record) -> Record | None:
    """The record of the same benchmark, metric and seed in the row that a record's row goes on from."""
    methods = scores.suite.get("methods")
    settings = methods.get(record.method) if isinstance(methods, Mapping) else None
    other = str(settings.get("continues") or "") if isinstance(settings, Mapping) else ""
    wanted = (other, record.benchmark, record.metric, record.seed, "ability")
    found = (r for r in scores.records if (r.method, r.benchmark, r.metric, r.seed, r.role) == wanted)
    return next(found, None)
