"""What training on one task after another leaves of the earlier ones.

    retained performance ratio = score on a task after the later trainings / score right after its own     (RPR)

The average of a row is the ratio of the averages before and after, over all its benchmarks, weighed as the suite says.
Source: the expert-concentration paper, Table 3.
"""

import numpy as np

from esft_bench.reports.backbone_results import AVERAGE, BackboneResults, Column
from esft_bench.reports.tables.table import Table, TableCell, averaged
from esft_bench.spec.record import Record


def retention_table(results: BackboneResults) -> Table | None:
    """RPR in per cent for every row that goes on from another one; None where no row does.

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
    for row in rows:
        of_row = [record for record in retained if record.method == row.name]
        cells[row.name, AVERAGE.name] = _average(results, of_row)
    caption = (
        "What is left, in per cent, of the score on a task once other tasks have been trained on after it: the score "
        "then, divided by that of the row it goes on from; mean over the later tasks and seeds, without an interval. "
        "The average is the ratio of the averages."
    )
    return Table("Retained performance", caption, rows, averaged(list(columns.values())), cells)


def _cell(results: BackboneResults, records: list[Record]) -> TableCell:
    """The mean ratio of a row's records on a benchmark to those of the row it goes on from."""
    if not records:
        return TableCell()
    ratios = [100.0 * after / before for after, before, _ in _pairs(results, records) if before]
    if not ratios:
        return TableCell(note="no score before and after, or none above 0 before")
    note = "" if len(ratios) == len(records) else f"{len(ratios)} of {len(records)} runs"
    return TableCell(float(np.mean(ratios)), runs=len(ratios), note=note)


def _average(results: BackboneResults, records: list[Record]) -> TableCell:
    """The ratio of the averages of a row's records, after and before; none while one is missing."""
    pairs = _pairs(results, records)
    before = sum(weight * value for _, value, weight in pairs)
    if len(pairs) < len(records) or not before:
        return TableCell(note="no average while a score before or after is missing, or all were 0 before")
    return TableCell(100.0 * sum(weight * value for value, _, weight in pairs) / before, runs=len(records))


def _pairs(results: BackboneResults, records: list[Record]) -> list[tuple[float, float, float]]:
    """For each record with a score before: (after, before, what it counts in an average)."""
    both = [(record, _before(results, record)) for record in records]
    by_items = results.suite.average == "items"
    return [
        (record.value, before.value, float(record.scored) if by_items else 1.0)
        for record, before in both
        if record.value is not None and before is not None and before.value is not None
    ]


def _before(results: BackboneResults, record: Record) -> Record | None:
    """The record of the same benchmark, metric and seed in the row that a record's row goes on from."""
    row = results.suite.methods.get(record.method)
    other = row.continues if row else ""
    wanted = (record.benchmark, record.metric, record.seed, "ability")
    found = (r for r in results.of_row(other) if (r.benchmark, r.metric, r.seed, r.role) == wanted)
    return next(found, None)
