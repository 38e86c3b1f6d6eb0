"""The minimum detectable effect: the smallest true difference that a test finds with a given probability."""

from dataclasses import dataclass

import numpy as np

from esft_bench.reports.statistics.family import ALPHA
from esft_bench.reports.statistics.variance import SCALE, VarianceComponents

POWER = 0.8
"""With which probability a difference of that size is found."""


@dataclass(frozen=True)
class Deviations:
    """Standard deviations of paired differences in points: over items, between runs, and what is left of an item's.

    50 points over items: all-or-nothing scores where a quarter of the items differ, the same ones in every run.
    """

    items: float = 50.0
    runs: float = 0.0
    residual: float = 0.0

    def components(self, items: int, runs: int, freedom: float | None = None) -> VarianceComponents:
        """The variances to be expected of a mean over so many items and runs; `freedom` is that between runs."""
        residual = self.residual**2 / (runs * items)
        item, run = self.items**2 / items + residual, self.runs**2 / runs + residual
        known = max(runs - 1, 1) if freedom is None else freedom
        return VarianceComponents(run, item, residual, known, max(items - 1, 1), runs, items)


def deviations_of(one: VarianceComponents) -> Deviations:
    """The standard deviations that components of a mean bear out; with one run all of an item's is its own."""
    if one.runs == 1:
        return Deviations(float(np.sqrt(one.item * one.items)))
    items = np.sqrt(max(one.item - one.residual, 0.0) * one.items)
    runs = np.sqrt(max(one.run - one.residual, 0.0) * one.runs)
    return Deviations(float(items), float(runs), float(np.sqrt(one.residual * one.items * one.runs)))


def detectable_effect(components: VarianceComponents, level: float = ALPHA, power: float = POWER) -> float:
    """Equation (8) of the package: what a test at a two-sided `level` finds with probability `power`.

    With one run the exact test can reject nothing with fewer than 1 + log2(1/level) differing items, so the effect is
    never less than their share of the items.
    """
    error = components.error
    least = SCALE * np.ceil(1 + np.log2(1 / level)) / components.items if components.runs == 1 else 0.0
    return float(min(SCALE, max(error.quantile(level / 2) + error.quantile(1 - power), least)))
