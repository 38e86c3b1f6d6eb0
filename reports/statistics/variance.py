"""Paired differences as arrays: what is there, its mean, and how it varies over runs and items.

`differences` are everywhere a list with one array [runs, items] for each benchmark of a comparison, NaN where a pair is
missing. Equation numbers are those of the package.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esft_bench.reports.statistics.error import Array, Error, error_of

SCALE = 100.0
"""Scores are points: the largest difference that a single item can make."""


@dataclass(frozen=True)
class VarianceComponents:
    """The variances A, C and E of equation (4), already divided by R, N and R·N, and the degrees of freedom."""

    run: float
    item: float
    residual: float
    run_freedom: float
    item_freedom: float
    runs: int
    items: int

    @property
    def error(self) -> Error:
        """The error of the mean; with one run nothing is known of how runs vary, and none of it is in there."""
        if self.runs == 1:
            return Error(np.array([self.item]), np.ones(1), self.item_freedom)
        return error_of(self.run, self.item, self.residual, self.run_freedom, self.item_freedom)

    def changed(self, runs: float = 1.0, items: float = 1.0) -> "VarianceComponents":
        """The components to be expected with so many times the runs and items, if these are right.

        What is left after subtracting the residual is what runs or items contribute beyond it.
        """
        residual = self.residual / (runs * items)
        run = max(self.run - self.residual, 0.0) / runs + residual
        item = max(self.item - self.residual, 0.0) / items + residual
        freedom = max((self.run_freedom * ((self.runs * runs) - 1)) / max(self.runs - 1, 1), 1.0)
        counts = round(self.runs * runs), round(self.items * items)
        return VarianceComponents(run, item, residual, freedom, self.item_freedom, *counts)


def without_gaps(differences: Sequence[Array], shared_runs: bool) -> list[Array] | None:
    """Drop runs and items without any pair; None where a benchmark has none left."""
    present = [np.isfinite(array).any(axis=1) for array in differences]
    if shared_runs and present:
        present = [np.logical_and.reduce(present)] * len(present)
    kept = [array[rows] for array, rows in zip(differences, present, strict=True)]
    kept = [array[:, np.isfinite(array).any(axis=0)] for array in kept]
    return kept if kept and all(array.size for array in kept) else None


def mean_difference(differences: Sequence[Array]) -> float:
    """Equation (1)."""
    return float(np.mean([np.nanmean(array, axis=1).mean() for array in differences]))


def variance_components(differences: Sequence[Array], shared_runs: bool) -> VarianceComponents:
    """The components of the mean over arrays without gaps; with `shared_runs` their rows are the same training runs."""
    share = 1 / len(differences) ** 2
    each = [_components(array) for array in differences]
    run, item, residual = (share * sum(one[k] for one in each) for k in range(3))
    shapes = [array.shape for array in differences]
    run_terms = sum((share * one[0]) ** 2 / max(shape[0] - 1, 1) for one, shape in zip(each, shapes, strict=True))
    item_terms = sum((share * one[1]) ** 2 / max(shape[1] - 1, 1) for one, shape in zip(each, shapes, strict=True))
    run_freedom = run**2 / run_terms if run_terms else 1.0
    if shared_runs and shapes[0][0] > 1:
        means = np.mean([np.nanmean(array, axis=1) for array in differences], axis=0)
        run, run_freedom = float(means.var(ddof=1)) / means.size, means.size - 1.0
    item_freedom = item**2 / item_terms if item_terms else 1.0
    runs, items = max(shape[0] for shape in shapes), sum(shape[1] for shape in shapes)
    return VarianceComponents(run, item, residual, run_freedom, item_freedom, runs, items)


def _components(array: Array) -> tuple[float, float, float]:
    """A, C and E of equation (4) for one benchmark; A and E are 0 for a single run."""
    runs, items = array.shape
    rows, columns = np.nanmean(array, axis=1), np.nanmean(array, axis=0)
    item = float(columns.var(ddof=1)) / items if items > 1 else 0.0
    if runs == 1 or items == 1:
        return (float(rows.var(ddof=1)) / runs if runs > 1 else 0.0), item, 0.0
    residuals = array - rows[:, None] - columns[None, :] + rows.mean()
    residual = float(np.nansum(residuals**2)) / ((runs - 1) * (items - 1))
    return float(rows.var(ddof=1)) / runs, item, residual / (runs * items)


def is_binary(differences: Sequence[Array]) -> bool:
    """One run of one benchmark whose scores are all or nothing."""
    single = len(differences) == 1 and differences[0].shape[0] == 1
    return single and bool(np.isin(differences[0], (-SCALE, 0.0, SCALE)).all())


def is_constant(differences: Sequence[Array]) -> bool:
    """Every pair differs by the same: nothing varies that could be resampled."""
    values = np.concatenate([array[np.isfinite(array)] for array in differences])
    return bool(np.ptp(values) == 0)


def over_runs(array: Array) -> Array:
    """Mean of each item over the runs that have it; NaN where none has."""
    present = np.isfinite(array)
    count = present.sum(axis=0)
    return np.where(count > 0, np.where(present, array, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def weighted(items: Sequence[Array]) -> Array:
    """The items [N_k] of all benchmarks in one row, weighted so that their sum is the mean over benchmarks."""
    return np.concatenate([array / (max(np.isfinite(array).sum(), 1) * len(items)) for array in items])
