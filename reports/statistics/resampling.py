"""The exact tests and the bootstrap for one training run: equations (2) and (3) of the package.

The bootstrap and McNemar's test are SciPy's. The sign-flip test is not: `scipy.stats.permutation_test` would draw signs
anew for every pair of rows, where one matrix product tests all pairs of a column with the same signs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from esft_bench.reports.statistics.error import Array

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
    chunk = _chunk(values.shape[0])
    for start in range(0, draws, chunk):
        size = (min(chunk, draws - start), values.shape[0])
        flipped = rng.integers(0, 2, size=size, dtype=np.int8).astype(np.float64)
        hits += (np.abs(2 * (flipped @ values) - total) >= threshold).sum(axis=0)
    return np.asarray((1 + hits) / (1 + draws), dtype=float)


def bootstrap(items: Sequence[Array], level: float = 0.95, draws: int = DRAWS, seed: int = SEED) -> Interval:
    """Return (1) with its percentile bootstrap over the items [N_k], no NaN, of each benchmark."""

    def mean(*drawn: Array, axis: int = -1) -> Array:
        return np.asarray(sum(one.mean(axis=axis) / len(items) for one in drawn))

    several = [one if one.size > 1 else one.repeat(2) for one in items]  # SciPy refuses a single observation
    found = stats.bootstrap(
        several,
        mean,
        n_resamples=draws,
        batch=_chunk(max(one.size for one in several)),
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Interval(float(np.mean([one.mean() for one in items])), float(low), float(high))


def _chunk(width: int) -> int:
    """How many draws of `width` numbers are held at once."""
    return max(1, _CHUNK // max(width, 1))
