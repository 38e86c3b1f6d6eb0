"""What a row costs: training, and where a model judged, judging."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from esft_bench.reports.backbone_results import BackboneResults, Column, TableRow
from esft_bench.reports.tables.table import Key, Table, TableCell, why
from esft_bench.spec.record import Record


@dataclass(frozen=True)
class Unit:
    """A column of a cost table: its header, and how much of the record's unit is 1 there."""

    header: str
    size: float = 1.0


TRAINING = {
    "train_seconds": Unit("Minutes", 60.0),
    "train_cpu_seconds": Unit("CPU seconds"),
    "peak_memory_bytes": Unit("Peak memory, MB", 1e6),
    "stored_bytes": Unit("Stored, MB", 1e6),
    "trainable_parameters": Unit("Trainable parameters, M", 1e6),
}
JUDGING = {
    "judge_requests": Unit("Replies"),
    "judge_tokens_in": Unit("Tokens read, k", 1e3),
    "judge_tokens_out": Unit("Tokens written, k", 1e3),
    "judge_dollars": Unit("Dollars"),
}


def efficiency_table(results: BackboneResults) -> Table:
    """What training a row costs: mean over its cells. 1 MB = 10⁶ bytes."""
    looked = results.suite.training.evaluate_every or any(
        results.suite.profile_every(row) for row in results.suite.methods
    )
    apart = ", without the time of looks at it" if looked else ""
    caption = f"Training only{apart}, mean over the cells of a row; 1 MB = 10⁶ bytes."
    table = _cost_table(results, "Efficiency", caption, TRAINING)
    bases = {row.name for row in results.rows if results.is_base(row)}
    untrained = {
        key: TableCell(note="not trained")
        for key, cell in table.cells.items()
        if key[0] in bases and cell.value is None
    }
    return Table(table.title, table.caption, table.rows, table.columns, {**table.cells, **untrained})


def judging_table(results: BackboneResults) -> Table | None:
    """What a row's judging cost: mean over its cells. None where no model judged."""
    measured = {record.metric for record in results.records if record.role == "cost"}
    costs = {metric: unit for metric, unit in JUDGING.items() if metric in measured}
    caption = (
        "Judging, mean over the cells of a row, whichever run paid: an answer that two cells share counts in both."
    )
    return _cost_table(results, "Judging", caption, costs) if costs else None


def costs_of(results: BackboneResults, row: TableRow, metric: str) -> list[float]:
    """A cost of each cell of a row, in the unit of its table."""
    unit = (TRAINING | JUDGING)[metric].size
    return [record.value / unit for record in _costs(results, row, metric) if record.value is not None]


def _costs(results: BackboneResults, row: TableRow, metric: str) -> list[Record]:
    """The records of a cost of a row's cells."""
    return [record for record in results.of_row(row.name) if (record.role, record.metric) == ("cost", metric)]


def _cost_table(results: BackboneResults, title: str, caption: str, costs: Mapping[str, Unit]) -> Table:
    """Costs by row, mean over its cells, by metric."""
    cells: dict[Key, TableCell] = {}
    for row in results.rows:
        for metric in costs:
            values = costs_of(results, row, metric)
            note = "" if values else why(_costs(results, row, metric), "not measured yet")
            cells[row.name, metric] = TableCell(float(np.mean(values)) if values else None, runs=len(values), note=note)
    columns = [Column(metric, unit.header) for metric, unit in costs.items()]
    return Table(title, caption, results.rows, columns, cells)
