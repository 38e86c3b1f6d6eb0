"""What the tables stand on: the records of one backbone, laid out by row, column and training run."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from esft_bench.reports.manifest import Manifest
from esft_bench.reports.statistics.error import Array
from esft_bench.reports.statistics.paired import paired_difference
from esft_bench.reports.statistics.resampling import Interval
from esft_bench.reports.statistics.variance import VarianceComponents, variance_components, without_gaps
from esft_bench.spec.curve import ITSELF
from esft_bench.spec.record import Record
from esft_bench.spec.results import read_items

ENOUGH = 0.95
"""Coverage below which a value is neither compared nor marked best."""

ROUNDING = 0.05
"""In points: values and the means of their items may differ by that much."""

Role = Literal["ability", "general", "drift"]
ROLES: tuple[Role, ...] = ("ability", "general")
"""Those whose scores are points, the more the better; drift is in bits, the less the better."""
Run = tuple[str, int]
"""A training run of a method: (task, seed); the base model has ("", seed)."""

NO_RUN: list[Run] = [("", 0)]


@dataclass(frozen=True)
class Column:
    """A benchmark as a column: its name, header, metric and, where it is judged, who judged.

    `tasks` are the tasks whose cells are tested on it as on their own: its namesake, or the training data that name it.
    """

    name: str
    title: str
    metric: str = ""
    judge: str = ""
    mixed: bool = False
    tasks: tuple[str, ...] = ()

    @property
    def by_reference(self) -> bool:
        """True where the "judge" is a metric against the reference answer: no model or person judged."""
        return self.judge.startswith("reference")


AVERAGE = Column("", "Avg")
"""The average over the columns of a role."""


@dataclass(frozen=True)
class TableRow:
    """A method as a row: its name in the suite, its title, and the row that it is an ablation of."""

    name: str
    title: str
    ablates: str = ""


class BackboneResults:
    """The records of one backbone in a run folder: of its rows themselves, and `at` another rate of those.

    Args:
        records: those of one backbone, at all rates.
        folder: the run folder, for the items.
        manifest: gives the order of rows and columns, and what is expected. Where its suite is empty, rows and columns
            come in the order of the records.
    """

    def __init__(self, records: Iterable[Record], folder: Path, manifest: Manifest, rate: float = ITSELF) -> None:
        self.folder, self.suite, self.benchmarks = folder, manifest.suite, manifest.benchmarks
        self.every, self._manifest = list(records), manifest
        self.records = [record for record in self.every if record.rate == rate or not record.task]
        self._items: dict[str, dict[str, float]] = {}
        self._columns: dict[Role, list[Column]] = {}
        self._by_cell: dict[tuple[str, str, str, str], list[Record]] = {}
        self._failed: dict[tuple[str, str, str], list[Record]] = {}
        self._by_row: dict[str, list[Record]] = {}
        self._own: dict[str, dict[str, None]] = {}  # the benchmarks of each task, in the order of the records
        for record in self.records:
            self._by_row.setdefault(record.method, []).append(record)
            if record.role == "ability":
                self._own.setdefault(record.task, {})[record.benchmark] = None
        for record in sorted(self.records, key=lambda record: (record.task, record.seed)):
            self._by_cell.setdefault((record.method, record.benchmark, record.role, record.metric), []).append(record)
            if record.state == "failed":
                self._failed.setdefault((record.method, record.benchmark, record.role), []).append(record)

    @cached_property
    def rates(self) -> list[float]:
        """What rows' learning rates (or steps) were multiplied by, from the lowest up; 1 is the rows themselves."""
        return sorted({ITSELF} | {record.rate for record in self.every})

    def at(self, rate: float) -> "BackboneResults":
        """The same rows at another point of their curves; the base model stays what it is."""
        return BackboneResults(self.every, self.folder, self._manifest, rate)

    @cached_property
    def rows(self) -> list[TableRow]:
        """Methods in suite order, then any that only the records know."""
        listed = self.suite.methods.items()
        planned = {name: TableRow(name, self.suite.title(name), row.ablates) for name, row in listed}
        found = {record.method: TableRow(record.method, record.method_title, record.ablates) for record in self.records}
        return list((planned | found).values())

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds of the suite, or those of the records."""
        return self.suite.seeds or sorted({record.seed for record in self.records if record.task})

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks trained on, in suite order."""
        return self.suite.tasks or sorted({record.task for record in self.records if record.task})

    @cached_property
    def engines(self) -> list[str]:
        """Everything that generated answers."""
        return sorted({record.engine for record in self.records if record.engine})

    def columns(self, role: Role) -> list[Column]:
        """Benchmarks in suite order, then any that only the records know.

        What nothing was trained for (the suite's `tested_only`) is no column of Table 1: its records stand alone.
        """
        if role not in self._columns:  # every table asks, and all records have to be looked at
            self._columns[role] = list(self._found_columns(role))
        return list(self._columns[role])

    def _found_columns(self, role: Role) -> Iterator[Column]:
        listed = self.suite.drift if role == "drift" else self.suite.general
        if role == "ability":
            listed = [name for task in self.suite.tasks for name in self.tested_on(task)]
        alone = set(self.suite.tested_only) - set(listed)
        found = {rec.benchmark: None for rec in self.records if rec.role == role and rec.benchmark not in alone}
        yield from (self._column(name, role) for name in dict.fromkeys([*listed, *found]))

    def tested_on(self, task: str) -> list[str]:
        """The benchmarks of a task that is trained on: those the run or the records name, else itself."""
        if task in self.benchmarks:
            return list(self.benchmarks[task])
        found = self._own.get(task, {})
        return list(found) if found and task not in found else [task]

    def of_row(self, name: str) -> list[Record]:
        """The records of a row."""
        return self._by_row.get(name, [])

    def is_base(self, row: TableRow) -> bool:
        """True for a row that is not trained: all its records have an empty task."""
        records = self.of_row(row.name)
        return bool(records) and not any(record.task for record in records)

    def expected_runs(self, row: TableRow, column: Column, role: Role) -> list[Run]:
        """The training runs a cell of a table averages over, when everything is there."""
        if self.is_base(row):
            return sorted({(record.task, record.seed) for record in self.of_row(row.name)})
        tasks = list(column.tasks) if role == "ability" else self._trained_on(row)
        return [(task, seed) for task in tasks for seed in self.seeds]

    def of(self, row: TableRow, column: Column, role: Role) -> dict[Run, Record]:
        """The records behind a cell of a table, by training run: in the column's metric, and failures in any."""
        own = self._by_cell.get((row.name, column.name, role, column.metric), [])
        failed = self._failed.get((row.name, column.name, role), [])
        return {
            (task, record.seed): record
            for record in [*failed, *own]  # a failure stands until there is a record in the metric
            for task in (record.tasks or [""] if role == "ability" else [record.task])
            if role != "ability" or task in ("", *column.tasks)
        }

    def covered(self, row: TableRow, column: Column, role: Role) -> bool:
        """Whether a cell of a table has a value that stands for (nearly) all items; of the average: all its columns."""
        if column is AVERAGE:
            columns = self.columns(role)
            return bool(columns) and all(self.covered(row, one, role) for one in columns)
        scored = [rec for rec in self.of(row, column, role).values() if rec.state == "scored" and rec.value is not None]
        return bool(scored) and sum(rec.scored for rec in scored) >= ENOUGH * sum(rec.n for rec in scored)

    def _trained_on(self, row: TableRow) -> list[str]:
        """The tasks of a row's cells: those of the suite, or for other rows what their records say."""
        found = {record.task: record for record in self.of_row(row.name) if record.task}
        if any(len(record.tasks) > 1 for record in found.values()):
            return list(found)
        earlier = {task for record in found.values() for task in record.earlier}
        return [task for task in self.tasks if task not in earlier]

    def item_scores(
        self, rows: Sequence[TableRow], columns: Sequence[Column], role: Role, task: str = ""
    ) -> dict[str, list[Array]]:
        """Item scores in points for each row: an array [runs, items] for each column, aligned between the rows.

        Item order is by id and NaN where there is no score. The base model, trained in no run, stands beside each
        run with the same scores. With `task`, general ability in the runs trained on that task only.
        """
        aligned: dict[str, list[Array]] = {row.name: [] for row in rows}
        runs_of_all = {run for row in rows for column in columns for run in self._trained(row, column, role)}
        shared = sorted(run for run in runs_of_all if task in ("", run[0]))
        for column in columns:
            items = {row.name: self.scores(row, column, role) for row in rows}
            if role == "ability":
                shared = sorted({run for row in rows for run in self._trained(row, column, role)})
            ids = sorted({key for runs in items.values() for scores in runs.values() for key in scores})
            for row in rows:
                runs = items[row.name]
                if self.is_base(row):
                    runs = dict.fromkeys(shared or NO_RUN, next(iter(runs.values()), {}))
                lines = [[runs.get(run, {}).get(key, np.nan) for key in ids] for run in shared or NO_RUN]
                aligned[row.name].append(np.array(lines, dtype=float).reshape(len(lines), len(ids)))
        return aligned

    def averaged(self, arrays: Sequence[Array], role: Role) -> list[Array]:
        """The arrays [runs, items] of columns as those whose mean, all counting alike, is the average of a role.

        With the suite's `average: items` Table 1 weighs columns by their items, as if all were one benchmark; columns
        with unlike numbers of runs cannot be put together and count alike.
        """
        if role == "general" or self.suite.average == "tasks" or len({len(array) for array in arrays}) != 1:
            return list(arrays)
        return [np.concatenate(arrays, axis=1)]

    def weight(self, row: TableRow, column: Column) -> float:
        """What a column counts in a row's average of Table 1: 1, or with `average: items` a run's scored items."""
        if self.suite.average == "tasks":
            return 1.0
        return float(np.mean([record.scored for record in self.of(row, column, "ability").values() if record.scored]))

    def own_components(self, row: TableRow, role: Role, columns: Sequence[Column]) -> VarianceComponents | None:
        """What the error of a row's average over some columns is made of; None without an item in each."""
        kept = without_gaps(self.averaged(self.item_scores([row], columns, role)[row.name], role), role == "general")
        return variance_components(kept, role == "general") if kept else None

    def own_interval(self, row: TableRow, role: Role, columns: Sequence[Column] | None = None) -> Interval | None:
        """A row's average over some columns (all unless given), with its interval over items, and runs if several."""
        chosen = self.columns(role) if columns is None else columns
        scores = self.averaged(self.item_scores([row], chosen, role)[row.name], role)
        found = paired_difference(scores, shared_runs=role == "general")
        return Interval(found.estimate, max(found.low, 0.0), min(found.high, 100.0)) if found else None

    def unsound(self) -> Iterator[str]:
        """What the items do not bear out, a sentence for each kind; the values stand as they were recorded."""
        contradicted: dict[str, list[Record]] = {LOST: [], COUNTED: [], VALUED: []}
        for record in self.records:
            if record.role == "cost" or record.state != "scored" or record.value is None:
                continue
            found = self.scores_of(record)
            if not found:
                contradicted[LOST].append(record)
            elif len(found) != record.scored:
                contradicted[COUNTED].append(record)
            elif abs(float(np.mean(list(found.values()))) - record.value) > ROUNDING:
                contradicted[VALUED].append(record)
        for what, records in contradicted.items():
            if records:
                named = ", ".join(record.items or record.benchmark for record in records[:3])
                yield f"{len(records)} record(s) {what} ({named}{', …' if len(records) > 3 else ''})."

    def _trained(self, row: TableRow, column: Column, role: Role) -> list[Run]:
        return [] if self.is_base(row) else [run for run, scores in self.scores(row, column, role).items() if scores]

    def scores(self, row: TableRow, column: Column, role: Role) -> dict[Run, dict[str, float]]:
        """The item scores of each training run, by item id."""
        return {run: self.scores_of(record) for run, record in self.of(row, column, role).items()}

    def scores_of(self, record: Record) -> dict[str, float]:
        """Scores in points, or bits of drift, by item id; items without a score are absent."""
        key = record.items
        if key not in self._items:
            items = read_items(self.folder, record)
            scale = 1.0 if record.role == "drift" else 100.0
            self._items[key] = {item.id: scale * item.score for item in items if item.score is not None}
        return self._items[key]

    def _column(self, name: str, role: Role) -> Column:
        """The metric of a column is the judged one where there is one, then the one most records have."""
        records = [record for record in self.records if record.benchmark == name and record.role == role]
        tasks = tuple(task for task in self.tasks if role == "ability" and name in self.tested_on(task)) or (name,)
        if not records:
            return Column(name, name, tasks=tasks)
        finished = [record for record in records if record.state != "failed"] or records
        count = Counter((not record.judge, record.metric) for record in finished)
        metric = min(count, key=lambda key: (key[0], -count[key], key[1]))[1]
        judges = sorted({record.judge for record in records if record.metric == metric and record.judge})
        title = next(record.benchmark_title or name for record in records)
        return Column(name, title, metric, ", ".join(judges), len(judges) > 1, tasks)


LOST = "have no items in the run folder: their values are shown, nothing is compared with them"
COUNTED = "have more or fewer scored items in their file than they say: compared by what is there"
VALUED = "have another value than the mean of their items: the value is shown, the items are compared"
