"""The tables of a comparison, from the records alone: what each cell says, not yet how it is printed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from esft_bench.reports.best import best_or_indistinguishable
from esft_bench.reports.blocks import Array
from esft_bench.reports.scores import ENOUGH, Column, Role, Row, Run, Scores
from esft_bench.reports.statistics import Comparison, compare, holm, mean_interval, resolvable
from esft_bench.spec.record import Record

AVERAGE = Column("", "Avg")
ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    `mark` is `best` (best or not distinguishable from the best; in Table 3: resolved) or `second`; `coverage` the
    scored share where it is short of ENOUGH; `note` says why something is missing or short.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    runs: int = 0
    mark: Literal["", "best", "second"] = ""
    coverage: float | None = None
    note: str = ""

    @property
    def comparable(self) -> bool:
        """True where there is a value that stands for (nearly) all items."""
        return self.value is not None and self.coverage is None


@dataclass(frozen=True)
class Table:
    """A table: cells by (row name, column name); the average's column name is empty.

    `resolvable` holds for each column the smallest difference it can resolve, in points; `pairs` how many pairs of
    rows were compared in it, and how many of them were not told apart; `comparisons` the differences of Table 3.
    """

    title: str
    caption: str
    rows: list[Row]
    columns: list[Column]
    cells: Mapping[tuple[str, str], Cell]
    resolvable: Mapping[str, float] = field(default_factory=dict)
    pairs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    comparisons: Mapping[tuple[str, str], Comparison] = field(default_factory=dict)

    def cell(self, row: Row, column: Column) -> Cell:
        """The cell, empty where there is none."""
        return self.cells.get((row.name, column.name), Cell())

    def frame(self) -> pd.DataFrame:
        """The values as a frame: row titles by column titles, NaN where there is no value."""
        values = [[self.cell(row, column).value for column in self.columns] for row in self.rows]
        names = [column.title for column in self.columns]
        return pd.DataFrame(values, index=[row.title for row in self.rows], columns=names, dtype=float)


def table_of(scores: Scores, title: str, names: Sequence[str], role: Role) -> Table:
    """A table of some rows only, in the order named and compared among themselves; rows there are not are left out."""
    known = {row.name: row for row in scores.rows}
    make = _mean_cell if role == "ability" else _interval_cell
    table = _score_table(scores, role, make, [known[name] for name in names if name in known])
    caption = "Some rows of Table 1, compared among themselves." if role == "ability" else "Some rows of Table 2."
    return replace(table, title=title, caption=caption)


def ability_table(scores: Scores) -> Table:
    """Table 1: the score on the task that a row was trained on, mean over seeds, and the average of the columns."""
    table = _score_table(scores, "ability", _mean_cell)
    seeds = len(scores.seeds)
    over = f"mean over {seeds} seeds" if seeds > 1 else "one training run per cell"
    caption = f"Score (0–100) on the task each row was trained on; {over}."
    return replace(table, title="Table 1. Task ability", caption=caption)


def general_table(scores: Scores) -> Table:
    """Table 2: general ability, mean over all training runs of a row with its 95% t-interval; none for the base."""
    table = _score_table(scores, "general", _interval_cell)
    most = len(scores.tasks) * len(scores.seeds)
    over = (
        f"mean over all training runs of a row ({most} where all are there) ± the half width of its 95% interval"
        if most > 1
        else "a single training run per row, so no interval over runs"
    )
    caption = f"Score (0–100) on benchmarks nobody was trained on; {over}."
    return replace(table, title="Table 2. General ability", caption=caption)


def ablation_table(scores: Scores) -> Table:
    """Table 3: random experts minus the row they ablate, paired over items (and seeds), with 95% intervals."""
    named = {row.name: row for row in scores.rows}
    ablations = [row for row in scores.rows if row.ablates in named]
    columns = scores.columns("ability")
    comparisons: dict[tuple[str, str], Comparison] = {}
    cells: dict[tuple[str, str], Cell] = {}
    for row in ablations:
        pair = [row, named[row.ablates]]
        blocks = scores.blocks(pair, columns, "ability")
        differences = [a - b for a, b in zip(blocks[pair[0].name], blocks[pair[1].name], strict=True)]
        for column, selected in [
            *((c, [d]) for c, d in zip(columns, differences, strict=True)),
            (AVERAGE, differences),
        ]:
            sides = [_mean_cell(scores, side, part, "ability") for side in pair for part in _parts(column, columns)]
            lacking = next((side for side in sides if side.value is None), None)
            found = None if lacking or any(part.mixed for part in _parts(column, columns)) else compare(selected)
            key = (row.name, column.name)
            if found is None:
                reason = (lacking.note if lacking else "") or "no item is scored in both rows by the same judge"
                cells[key] = Cell(note=reason if column is not AVERAGE else "no average while a column is missing")
                continue
            short = min((side.coverage for side in sides if side.coverage is not None), default=None)
            comparisons[key] = found
            cells[key] = Cell(found.estimate, found.low, found.high, found.runs, coverage=short)
    adjusted = dict(zip(comparisons, holm([found.p_value for found in comparisons.values()]), strict=True))
    for key, p_value in adjusted.items():
        if p_value <= ALPHA and cells[key].coverage is None:
            cells[key] = replace(cells[key], mark="best")
    deltas: dict[str, list[float]] = {}
    for (_, column_name), found in comparisons.items():
        delta = resolvable(found.standard_error, found.freedom, found.items, found.runs, len(comparisons))
        deltas.setdefault(column_name, []).append(delta)
    smallest = {name: float(np.median(found)) for name, found in deltas.items()}
    titles = [replace(row, title=f"{row.title} − {named[row.ablates].title}") for row in ablations]
    caption = "Random experts minus selected experts, same number in each layer, in points with 95% interval."
    averaged = [*columns, AVERAGE] if columns else []
    return Table("Table 3. Random experts", caption, titles, averaged, cells, smallest, comparisons=comparisons)


COSTS = {
    "train_seconds": ("Minutes", 60.0),
    "train_cpu_seconds": ("CPU seconds", 1.0),
    "peak_memory_bytes": ("Peak memory, MB", 1e6),
    "stored_bytes": ("Stored, MB", 1e6),
    "trainable_parameters": ("Trainable parameters, M", 1e6),
}


JUDGING = {
    "judge_requests": ("Replies", 1.0),
    "judge_tokens_in": ("Tokens read, k", 1e3),
    "judge_tokens_out": ("Tokens written, k", 1e3),
    "judge_dollars": ("Dollars", 1.0),
}


def efficiency_table(scores: Scores) -> Table:
    """What training a row costs: mean over its cells. 1 MB = 10⁶ bytes."""
    caption = "Training only, mean over the cells of a row; 1 MB = 10⁶ bytes."
    return _cost_table(scores, "Efficiency", caption, COSTS)


def judging_table(scores: Scores) -> Table | None:
    """What a row's judging cost: mean over its cells. None where no model judged."""
    measured = {record.metric for record in scores.records if record.role == "cost"}
    costs = {metric: named for metric, named in JUDGING.items() if metric in measured}
    caption = (
        "Judging, mean over the cells of a row, whichever run paid: an answer that two cells share counts in both."
    )
    return _cost_table(scores, "Judging", caption, costs) if costs else None


def _cost_table(scores: Scores, title: str, caption: str, costs: Mapping[str, tuple[str, float]]) -> Table:
    """Costs by row, mean over its cells; each metric with its header and the unit it is given in."""
    cells: dict[tuple[str, str], Cell] = {}
    for row in scores.rows:
        for metric, (_, unit) in costs.items():
            found = [r for r in scores.records if (r.method, r.role, r.metric) == (row.name, "cost", metric)]
            values = [record.value / unit for record in found if record.value is not None]
            note = (
                ""
                if values
                else "not trained"
                if scores.is_base(row) and costs is COSTS
                else _why(found, "not measured yet")
            )
            cells[row.name, metric] = Cell(float(np.mean(values)) if values else None, runs=len(values), note=note)
    columns = [Column(metric, header) for metric, (header, _) in costs.items()]
    return Table(title, caption, scores.rows, columns, cells)


def _score_table(
    scores: Scores,
    role: Role,
    make: Callable[[Scores, Row, Column, Role], Cell],
    only: Sequence[Row] | None = None,
) -> Table:
    """Cells of all rows (or `only` some) and columns, their average, and which are best."""
    rows, columns = list(scores.rows if only is None else only), scores.columns(role)
    cells = {(row.name, column.name): make(scores, row, column, role) for row in rows for column in columns}
    for row in rows:
        cells[row.name, ""] = _average([cells[row.name, column.name] for column in columns], scores, row, columns, role)
    blocks = scores.blocks(rows, columns, role)
    resolvable: dict[str, float] = {}
    pairs: dict[str, tuple[int, int]] = {}
    for k, column in enumerate([*columns, AVERAGE]):
        if any(part.mixed for part in _parts(column, columns)):
            continue
        eligible = [row.name for row in rows if cells[row.name, column.name].comparable]
        chosen = {name: blocks[name] if column is AVERAGE else [blocks[name][k]] for name in eligible}
        _mark(cells, column, chosen, role, resolvable, pairs)
    averaged = [*columns, AVERAGE] if columns else []
    return Table("", "", rows, averaged, cells, resolvable, pairs)


def _mark(
    cells: dict[tuple[str, str], Cell],
    column: Column,
    chosen: Mapping[str, Sequence[Array]],
    role: Role,
    resolvable: dict[str, float],
    pairs: dict[str, tuple[int, int]],
) -> None:
    """Mark best and second of a column; note what it can resolve."""
    found = best_or_indistinguishable(chosen, alpha=ALPHA, shared_runs=role == "general")
    if found is None or not found.p_values:
        return
    best = {found.best, *found.indistinguishable}
    for name in best:
        cells[name, column.name] = replace(cells[name, column.name], mark="best")
    if found.second:
        cells[found.second, column.name] = replace(cells[found.second, column.name], mark="second")
    resolvable[column.name] = found.resolvable
    pairs[column.name] = (len(found.p_values), sum(p > ALPHA for p in found.p_values.values()))


def _mean_cell(scores: Scores, row: Row, column: Column, role: Role) -> Cell:
    """Mean of a row's records in a column, with what is missing."""
    records = scores.of(row, column, role)
    values = [record.value for record in records.values() if record.state == "scored" and record.value is not None]
    if not values:
        return Cell(note=_why(list(records.values()), "not finished"))
    count = sum(record.n for record in records.values() if record.state == "scored")
    share = sum(record.scored for record in records.values() if record.state == "scored") / count if count else 1.0
    expected = max(len(scores.expected_runs(row, column, role)), len(records))
    note = "" if len(values) >= expected else f"{len(values)} of {expected} runs{_failures(records)}"
    return Cell(float(np.mean(values)), runs=len(values), coverage=share if share < ENOUGH else None, note=note)


def _interval_cell(scores: Scores, row: Row, column: Column, role: Role) -> Cell:
    """The mean with its interval over runs; the base model has a single run and no interval."""
    cell = _mean_cell(scores, row, column, role)
    records = scores.of(row, column, role).values()
    return _with_interval(cell, [r.value for r in records if r.state == "scored" and r.value is not None])


def _with_interval(cell: Cell, values: Sequence[float]) -> Cell:
    if len(values) < 2:
        return cell
    spread = mean_interval(values)
    return replace(cell, low=spread.low, high=spread.high)


def _average(parts: Sequence[Cell], scores: Scores, row: Row, columns: Sequence[Column], role: Role) -> Cell:
    """The mean of the columns where all are there; in Table 2 over the runs that have all."""
    if not parts or any(part.value is None for part in parts):
        missing = any(part.value is not None for part in parts)
        return Cell(note="no average while a column is missing" if missing else "")
    coverage = min((part.coverage for part in parts if part.coverage is not None), default=None)
    if role == "ability":
        value = float(np.mean([part.value for part in parts if part.value is not None]))
        return Cell(value, runs=min(part.runs for part in parts), coverage=coverage)
    per_run: dict[Run, list[float]] = {}
    for column in columns:
        for run, record in scores.of(row, column, role).items():
            if record.state == "scored" and record.value is not None:
                per_run.setdefault(run, []).append(record.value)
    whole = [float(np.mean(values)) for values in per_run.values() if len(values) == len(columns)]
    if not whole:
        return Cell(note="no run has every column")
    return _with_interval(Cell(float(np.mean(whole)), runs=len(whole), coverage=coverage), whole)


def _parts(column: Column, columns: Sequence[Column]) -> Sequence[Column]:
    return columns if column is AVERAGE else [column]


def _failures(records: Mapping[Run, Record]) -> str:
    """Why runs are missing, as far as the records say."""
    lost = [record for record in records.values() if record.state != "scored" or record.value is None]
    return f" ({_why(lost, '')})" if lost else ""


def _why(records: Sequence[Record], otherwise: str) -> str:
    """Why there is no value: the states and notes of the records, or `otherwise` without any."""
    reasons = []
    for record in records:
        state = record.state if record.state != "scored" else "unscored"
        reason = f"{state}: {' '.join(record.note.split())}" if record.note else state
        if reason not in reasons:
            reasons.append(reason)
    return "; ".join(reasons) or otherwise
