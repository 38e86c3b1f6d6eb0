"""How far two series of scores of the same answers agree, and what a cheap judge's scores say on another's scale.

Krippendorff's alpha for interval data (Krippendorff 2011, as the package `krippendorff` computes it) is one minus the
squared difference within answers over that between any two scores: 1 where the two always agree, 0 where they agree
as much as scores drawn at random from both. Spearman's coefficient looks at the order alone.

Prediction-powered inference (Angelopoulos et al. 2023, "Prediction-Powered Inference", Algorithm 1, mean): f(x) is the
cheap judge's score of N answers, and y the wanted judge's on n others that both scored. With the rectifier
Δ = mean_n(y − f(x)),

    (10)  θ = mean_N f(x) + Δ
    (11)  SE² = var_N(f(x)) / N + var_n(y − f(x)) / n

It holds where the cheap judge errs on the N answers as it does on the n.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from esft_bench.reports.statistics.resampling import Interval


@dataclass(frozen=True)
class Agreement:
    """Two series of scores side by side; alpha and Spearman's coefficient are None where a series does not vary."""

    answers: int
    difference: float
    absolute: float
    alpha: float | None
    spearman: float | None


def agreement(pairs: Sequence[tuple[float, float]]) -> Agreement:
    """Compare pairs of scores, a first and a second one: the mean of the first minus the second, and how they agree.

    Raises ValueError without pairs.
    """
    import krippendorff  # here: only judged runs need it

    first, second = np.asarray(pairs, dtype=float).reshape(-1, 2).T
    if first.size == 0:
        raise ValueError("the agreement of no scores")
    varied = np.ptp(np.concatenate([first, second])) > 0
    ranked = np.ptp(first) > 0 and np.ptp(second) > 0
    return Agreement(
        answers=first.size,
        difference=float((first - second).mean()),
        absolute=float(np.abs(first - second).mean()),
        alpha=float(krippendorff.alpha(np.stack([first, second]), level_of_measurement="interval")) if varied else None,
        spearman=float(stats.spearmanr(first, second).statistic) if ranked else None,
    )


def debiased(scores: Sequence[float], rectifier: float, error: float, level: float = 0.95) -> Interval:
    """Return the mean of a cheap judge's `scores` on another's scale, equations (10) and (11), with its interval.

    `rectifier` is Δ and `error` its standard error, sqrt(var_n(y − f) / n). Raises ValueError for fewer than two.
    """
    array = np.asarray(scores, dtype=float)
    if array.size < 2:
        raise ValueError("fewer than two scores")
    spread = float(np.sqrt(array.var(ddof=1) / array.size + error**2))
    half = float(stats.norm.ppf((1 + level) / 2)) * spread
    estimate = float(array.mean()) + rectifier
    return Interval(estimate, estimate - half, estimate + half)
