"""From records to curves: what each row gains on a task, and loses by some measure, at each multiple of its rate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esft_bench.reports.backbone_results import BackboneResults, Column, Role, TableRow
from esft_bench.reports.statistics.equal_gain import Curves
from esft_bench.reports.statistics.error import Array
from esft_bench.spec.record import UNITS

GENERAL = "general"


@dataclass(frozen=True)
class Measure:
    """A measure of forgetting: general ability lost, in points, or a measure of drift, in bits.

    `digits` are those behind the decimal point that tables show.
    """

    name: str
    title: str
    unit: str
    columns: tuple[Column, ...]
    role: Role
    digits: int = 1


def measures(results: BackboneResults) -> list[Measure]:
    """General ability first, where the suite has benchmarks of it, then every measure of drift."""
    general = tuple(results.columns("general"))
    found = [Measure(GENERAL, "General ability", "points", general, "general")] if general else []
    for column in results.columns("drift"):
        found.append(Measure(column.name, column.title, UNITS.get(column.metric, "bits"), (column,), "drift", 3))
    return found


def base_of(results: BackboneResults) -> TableRow | None:
    """The row that is not trained."""
    return next((row for row in results.rows if results.is_base(row)), None)


def trained_rows(results: BackboneResults) -> list[TableRow]:
    """The rows with a curve for each task: trained, and on one task at a time."""
    together = {record.method for record in results.every if len(record.tasks) > 1}
    return [row for row in results.rows if not results.is_base(row) and row.name not in together]


def curves_of(results: BackboneResults, measure: Measure) -> Curves | None:
    """The curves of all rows by a measure; None without the base model, or while no row has one whole curve.

    Runs are the seeds that every row with a whole curve has; what a row lacks on a task is NaN.
    """
    made = _Maker.of(results)
    if made is None:
        return None
    found = {(row.name, task): made.seeds_of(row, task, measure) for row in made.rows for task in results.tasks}
    whole = [seeds for seeds in found.values() if seeds]
    seeds = sorted(set.intersection(*whole)) if whole else []
    if not seeds:
        return None
    there = {key for key, of_key in found.items() if of_key}
    gains = [made.gains(task, seeds, there) for task in results.tasks]
    losses = [made.losses(column, measure.role, seeds, there) for column in measure.columns]
    ablations = frozenset(row.name for row in made.rows if row.ablates)
    return Curves([row.name for row in made.rows], results.tasks, gains, losses, ablations)


@dataclass(frozen=True)
class _Maker:
    """Lays item scores out as curves; `at` are the results at each rate, from the lowest up."""

    results: BackboneResults
    base: TableRow
    rows: Sequence[TableRow]
    at: Sequence[BackboneResults]

    @classmethod
    def of(cls, results: BackboneResults) -> "_Maker | None":
        base, rows = base_of(results), trained_rows(results)
        return cls(results, base, rows, [results.at(rate) for rate in results.rates]) if base and rows else None

    def seeds_of(self, row: TableRow, task: str, measure: Measure) -> set[int]:
        """The seeds for which a row has every point on a task; none while the base model is not tested on all of it."""
        asked: list[tuple[Column, Role]] = [(column, "ability") for column in self._own(task)]
        asked += [(column, measure.role) for column in measure.columns]
        if not all(any(self.results.scores(self.base, column, role).values()) for column, role in asked):
            return set()
        return set.intersection(
            *(
                {seed for (of, seed), scores in point.scores(row, column, role).items() if of == task and scores}
                for point in self.at
                for column, role in asked
            )
        )

    def gains(self, task: str, seeds: Sequence[int], there: set[tuple[str, str]]) -> Array:
        """Trained minus base [rows, points, runs, items] on a task's benchmarks, all counting alike."""
        own = self._own(task)
        each = [self._differences(column, "ability", task, seeds, there) for column in own]
        items = sum(array.shape[-1] for array in each)
        return np.concatenate([array * (items / (len(own) * array.shape[-1])) for array in each], axis=-1)

    def losses(self, column: Column, role: Role, seeds: Sequence[int], there: set[tuple[str, str]]) -> Array:
        """What is lost on a benchmark [tasks, rows, points, runs, items], more being worse."""
        sign = 1.0 if role == "drift" else -1.0
        return sign * np.stack(
            [self._differences(column, role, task, seeds, there) for task in self.results.tasks], axis=0
        )

    def _own(self, task: str) -> list[Column]:
        names = self.results.tested_on(task)
        return [column for column in self.results.columns("ability") if column.name in names]

    def _differences(
        self, column: Column, role: Role, task: str, seeds: Sequence[int], there: set[tuple[str, str]]
    ) -> Array:
        """Trained minus base [rows, points, runs, items], point 0 being the base model itself."""
        base = next(iter(self.results.scores(self.base, column, role).values()), {})
        ids = sorted(base) or [""]  # while the base model was not tested on it, one item that nobody has
        before = np.array([base.get(key, np.nan) for key in ids])
        found = np.full((len(self.rows), len(self.at) + 1, len(seeds), len(ids)), np.nan)
        for k, row in enumerate(self.rows):
            if (row.name, task) not in there:
                continue
            found[k, 0] = 0.0
            for p, point in enumerate(self.at, start=1):
                scores = point.scores(row, column, role)
                for s, seed in enumerate(seeds):
                    own = scores[task, seed]
                    found[k, p, s] = np.array([own.get(key, np.nan) for key in ids]) - before
        return found
