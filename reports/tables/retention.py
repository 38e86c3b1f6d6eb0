"""What training on one task after another leaves of the earlier ones.

    retained performance ratio = score on a task after the later trainings / score right after its own     (Eq. 1)

Source: the expert-concentration paper, Table 3, whose definition is not public in full; Eq. 1 is this project's
reading.
"""

import numpy as np

from esft_bench.reports.backbone_results import BackboneResults, Column
from esft_bench.reports.tables.table import Table, TableCell
from esft_bench.spec.record import Record


def retention_table(results: BackboneResults) -> Table | None:
    """Eq. 1 in per cent for every row that goes on from another one; None where no row does.

    The score before is that of the other row's own cell with the same seed.
    """
    retained = [record for record in results.records if record.role == "retained"]
    if not retained:
        return None
    columns = {record.benchmark: Column(record.benchmark, record.benchmark_title) for record in retained}
    rows = [row for row in results.rows if any(record.method == row.name for record in retained)]
    cells = {
        (row.name, name): _cell(results, [r for r in retained if (r.method, r.benchmark) == (row.name, name)])
        for row in rows
        for name in columns
    }
    caption = (
        "What is left, in per cent, of the score on a task once other tasks have been trained on after it: the score "
        "then, divided by that of the row it goes on from; mean over the later tasks and seeds, without an interval."
    )
    return Table("Retained performance", caption, rows, list(columns.values()), cells)


def _cell(results: BackboneResults, records: list[Record]) -> TableCell:
    """The mean ratio of a row's records on a benchmark to those of the row it goes on from."""
    ratios = []
    for record in records:
        before = _before(results, record)
        if record.value is not None and before is not None and before.value:
            ratios.append(100.0 * record.value / before.value)
    if not ratios:
        return TableCell(note="no score before and after, or none above 0 before")
    note = "" if len(ratios) == len(records) else f"{len(ratios)} of {len(records)} runs"
    return TableCell(float(np.mean(ratios)), runs=len(ratios), note=note)


def _before(results: BackboneResults, record: Record) -> Record | None:
    """The record of the same benchmark, metric and seed in the row that a record's row goes on from."""
    row = results.suite.methods.get(record.method)
    other = row.continues if row else ""
    wanted = (other, record.benchmark, record.metric, record.seed, "ability")
    found = (r for r in results.records if (r.method, r.benchmark, r.metric, r.seed, r.role) == wanted)
    return next(found, None)
