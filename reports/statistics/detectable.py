"""The minimum detectable effect: the smallest true difference that a test finds with a given probability."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from esft_bench.reports.statistics.paired import ALPHA
from esft_bench.reports.statistics.variance import SCALE, Precision

POWER = 0.8
"""With which probability a difference of that size is found."""


@dataclass(frozen=True)
class Deviations:
    """Standard deviations of paired differences in points: over items, and of a method's difference between runs.

    50 points over items: all-or-nothing scores where a quarter of the items differ.
    """

    items: float = 50.0
    runs: float = 0.0


def minimum_detectable_effect(
    items: int, runs: int = 1, deviations: Deviations | None = None, *, comparisons: int = 1
) -> float:
    """Return the true difference that a paired test on `items` items and `runs` runs finds with probability POWER.

    Equation (8) of the package with SE = √(sd_items²/N + sd_runs²/R), m being the number of `comparisons`: its
    Bonferroni share is where Holm starts.
    """
    deviation = deviations or Deviations()
    over_items, over_runs = deviation.items**2 / items, deviation.runs**2 / runs
    freedom = runs - 1 if runs > 1 and over_runs > over_items else max(items - 1, 1)
    return detectable_effect(Precision(float(np.sqrt(over_items + over_runs)), freedom, items, runs), comparisons)


def detectable_effect(precision: Precision, comparisons: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """Equation (8) of the package, from a standard error and its degrees of freedom.

    With one run the exact test can reject nothing with fewer than 1 + log2(m/α) differing items, so the effect is
    never less than their share of the items.
    """
    quantiles = stats.t.ppf(1 - alpha / comparisons / 2, precision.freedom) + stats.t.ppf(power, precision.freedom)
    least = SCALE * np.ceil(1 + np.log2(comparisons / alpha)) / precision.items if precision.runs == 1 else 0.0
    return float(min(SCALE, max(quantiles * precision.standard_error, least)))
