"""Paired differences as arrays: what is there, its mean, and how it varies over runs and items.

A block is an array [runs, items] of paired differences of two methods on one benchmark, NaN where a pair is missing;
a comparison that averages over benchmarks has a list of blocks. Equation numbers are those of `statistics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def clean(blocks: Sequence[Array], shared_runs: bool) -> list[Array] | None:
    """Drop runs and items without any pair; None where a block has none left."""
    present = [np.isfinite(block).any(axis=1) for block in blocks]
    if shared_runs and present:
        present = [np.logical_and.reduce(present)] * len(present)
    kept = [block[rows] for block, rows in zip(blocks, present, strict=True)]
    kept = [block[:, np.isfinite(block).any(axis=0)] for block in kept]
    return kept if kept and all(block.size for block in kept) else None


def estimate_of(blocks: Sequence[Array]) -> float:
    """Equation (1)."""
    return float(np.mean([np.nanmean(block, axis=1).mean() for block in blocks]))


@dataclass(frozen=True)
class Spread:
    """The variances A, C and E of equation (4), already divided by R, N and R·N, and the degrees of freedom."""

    run: float
    item: float
    residual: float
    run_freedom: float
    item_freedom: float
    runs: int
    items: int

    def error(self) -> tuple[float, float]:
        """Return SE and its degrees of freedom, equations (4) and (5)."""
        variance = max(self.item, self.residual) + max(self.run - self.residual, 0.0)
        spread = self.run**2 / self.run_freedom + self.item**2 / self.item_freedom
        return float(np.sqrt(variance)), max(variance**2 / spread, 1.0) if spread else 1.0


def spread_of(blocks: Sequence[Array], shared_runs: bool) -> Spread:
    """The spread of the mean over (cleaned) blocks; with `shared_runs` their rows are the same training runs."""
    share = 1 / len(blocks) ** 2
    parts = [_components(block) for block in blocks]
    run, item, residual = (share * sum(part[k] for part in parts) for k in range(3))
    shapes = [block.shape for block in blocks]
    run_terms = sum((share * part[0]) ** 2 / max(shape[0] - 1, 1) for part, shape in zip(parts, shapes, strict=True))
    item_terms = sum((share * part[1]) ** 2 / max(shape[1] - 1, 1) for part, shape in zip(parts, shapes, strict=True))
    run_freedom = run**2 / run_terms if run_terms else 1.0
    if shared_runs and shapes[0][0] > 1:
        means = np.mean([np.nanmean(block, axis=1) for block in blocks], axis=0)
        run, run_freedom = float(means.var(ddof=1)) / means.size, means.size - 1.0
    item_freedom = item**2 / item_terms if item_terms else 1.0
    runs, items = max(shape[0] for shape in shapes), sum(shape[1] for shape in shapes)
    return Spread(run, item, residual, run_freedom, item_freedom, runs, items)


def pooled(spreads: Sequence[Spread], rows: int) -> list[Spread]:
    """The spreads of all pairs of `rows` rows, with one variance between runs for all of them, equation (9)."""
    several = [spread for spread in spreads if spread.runs > 1]
    if not several:
        return list(spreads)
    excess = max(float(np.mean([spread.run - spread.residual for spread in several])), 0.0)
    freedom = float(np.mean([spread.run_freedom for spread in several])) * max(rows - 1, 1)
    return [
        replace(spread, run=spread.residual + excess, run_freedom=freedom) if spread.runs > 1 else spread
        for spread in spreads
    ]


def _components(block: Array) -> tuple[float, float, float]:
    """A, C and E of equation (4) for one block; A and E are 0 for a single run."""
    runs, items = block.shape
    rows, columns = np.nanmean(block, axis=1), np.nanmean(block, axis=0)
    item = float(columns.var(ddof=1)) / items if items > 1 else 0.0
    if runs == 1 or items == 1:
        return (float(rows.var(ddof=1)) / runs if runs > 1 else 0.0), item, 0.0
    residuals = block - rows[:, None] - columns[None, :] + rows.mean()
    residual = float(np.nansum(residuals**2)) / ((runs - 1) * (items - 1))
    return float(rows.var(ddof=1)) / runs, item, residual / (runs * items)


def is_binary(blocks: Sequence[Array], scale: float) -> bool:
    """One run of one benchmark whose scores are all or nothing."""
    return len(blocks) == 1 and blocks[0].shape[0] == 1 and bool(np.isin(blocks[0], (-scale, 0.0, scale)).all())


def is_constant(blocks: Sequence[Array]) -> bool:
    """Every pair differs by the same: no spread to resample."""
    values = np.concatenate([block[np.isfinite(block)] for block in blocks])
    return bool(np.ptp(values) == 0)


def over_runs(block: Array) -> Array:
    """Mean of each item over the runs that have it; NaN where none has."""
    present = np.isfinite(block)
    count = present.sum(axis=0)
    return np.where(count > 0, np.where(present, block, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def weighted(blocks: Sequence[Array]) -> Array:
    """Items of all blocks in one row, weighted so that their sum is the mean over blocks of the block means."""
    return np.concatenate([block / (max(np.isfinite(block).sum(), 1) * len(blocks)) for block in blocks])
