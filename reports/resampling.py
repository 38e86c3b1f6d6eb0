"""The exact tests and the bootstrap for one training run: equations (2) and (3) of `statistics`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from esft_bench.reports.blocks import Array

DRAWS = 9_999
"""Resamples of a bootstrap or a permutation test; p can't be below 1 / (1 + DRAWS)."""

SEED = 20240701
"""Seed of every resampling here: the same scores always give the same interval."""

_CHUNK = 4_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, on the scale of the scores."""

    estimate: float
    low: float
    high: float


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of equation (2) for `wins` and `losses` among the discordant items."""
    discordant = wins + losses
    return float(stats.binomtest(wins, discordant, 0.5).pvalue) if discordant else 1.0


def sign_flip(differences: Array, draws: int = DRAWS, seed: int = SEED) -> Array:
    """Return the p-values of equation (3), one a column of `differences` [items, comparisons] (already weighted).

    All columns share the random signs, so many comparisons over the same items cost little more than one. The signs
    of missing pairs (NaN) flip nothing.
    """
    values = np.nan_to_num(differences)
    total = values.sum(axis=0)
    threshold = np.abs(total) - 1e-9 * (1 + np.abs(values).sum(axis=0))  # sums in another order differ in the last bit
    rng = np.random.default_rng(seed)
    hits = np.zeros(values.shape[1])
    for count in _chunks(draws, values.shape[0]):
        flipped = rng.integers(0, 2, size=(count, values.shape[0]), dtype=np.int8).astype(np.float64)
        hits += (np.abs(2 * (flipped @ values) - total) >= threshold).sum(axis=0)
    return np.asarray((1 + hits) / (1 + draws), dtype=float)


def bootstrap(blocks: Sequence[Array], level: float = 0.95, draws: int = DRAWS, seed: int = SEED) -> Interval:
    """Return (1) with its percentile bootstrap over items, within each of `blocks` ([items], no NaN)."""
    rng = np.random.default_rng(seed)
    means = np.zeros(draws)
    for block in blocks:
        done = 0
        for count in _chunks(draws, block.size):
            drawn = rng.integers(0, block.size, size=(count, block.size))
            means[done : done + count] += block.take(drawn).mean(axis=1) / len(blocks)
            done += count
    estimate = float(np.mean([block.mean() for block in blocks]))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def _chunks(draws: int, width: int) -> list[int]:
    """Split `draws` so that no more than _CHUNK numbers are held at once."""
    size = max(1, _CHUNK // max(width, 1))
    return [min(size, draws - start) for start in range(0, draws, size)]
