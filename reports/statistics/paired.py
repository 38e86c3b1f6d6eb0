"""One row against another on the same items: difference, interval and test. Equations are those of the package."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from esft_bench.reports.statistics.error import Array
from esft_bench.reports.statistics.resampling import Interval, bootstrap, mcnemar, sign_flip
from esft_bench.reports.statistics.variance import (
    SCALE,
    VarianceComponents,
    is_binary,
    is_constant,
    mean_difference,
    variance_components,
    weighted,
    without_gaps,
)


@dataclass(frozen=True)
class PairedDifference(Interval):
    """A paired difference: its interval, the two-sided p-value of "no difference", and what it rests on."""

    p_value: float
    components: VarianceComponents

    @property
    def runs(self) -> int:
        """Training runs behind it; with one it is between two trainings and says nothing of the methods."""
        return self.components.runs


def paired_difference(
    differences: Sequence[Array], *, shared_runs: bool = False, level: float = 0.95
) -> PairedDifference | None:
    """Compare two methods on one benchmark or on the average of several.

    Args:
        differences: for each benchmark the paired differences D [runs, items] in points, NaN where a pair is missing.
        shared_runs: the arrays' rows are the same training runs (several benchmarks of each run), so that their run
            effects do not average out.
        level: of the interval.

    Returns:
        None where a benchmark has no pair at all. One run: bootstrap and exact test; several: equations (4) to (6).
    """
    kept = without_gaps(differences, shared_runs)
    if kept is None:
        return None
    components = variance_components(kept, shared_runs)
    return difference_of(kept, components, p_value_of(kept, components), level)


def difference_of(
    kept: Sequence[Array], components: VarianceComponents, p_value: float, level: float = 0.95
) -> PairedDifference:
    """The paired difference of arrays without gaps, given its components and p-value."""
    estimate = mean_difference(kept)
    if is_constant(kept):
        low, high = _constant(estimate / SCALE, components.items, level)
        around = Interval(estimate, low * SCALE, high * SCALE)
    elif components.runs == 1:
        around = bootstrap([array[0] for array in kept], level)
    else:
        half = components.error.quantile((1 - level) / 2)
        around = Interval(estimate, estimate - half, estimate + half)
    return PairedDifference(estimate, around.low, around.high, p_value, components)


def p_value_of(differences: Sequence[Array], components: VarianceComponents) -> float:
    """The test that fits arrays without gaps: exact for one run, equation (6) for several."""
    estimate = mean_difference(differences)
    if is_constant(differences):
        return 1.0 if estimate == 0 else min(1.0, 2.0 ** (1 - components.items))
    if components.runs > 1:
        return 2 * components.error.beyond(abs(estimate))
    if is_binary(differences):
        return mcnemar(int((differences[0] > 0).sum()), int((differences[0] < 0).sum()))
    return float(sign_flip(weighted([array[0] for array in differences])[:, None])[0])


def standard_error(values: Sequence[float] | Array) -> float:
    """Return the standard error of a mean, s / √n; NaN for fewer than two values."""
    array = np.asarray(values, dtype=float)
    return float(array.std(ddof=1) / np.sqrt(array.size)) if array.size > 1 else float("nan")


def mean_interval(values: Sequence[float] | Array, level: float = 0.95) -> Interval:
    """Return the mean and its t-interval, mean ± t(n−1)·s/√n: Table 2's interval over training runs.

    With one value there is no interval: low and high are NaN. Raises ValueError without values.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("the mean of no values")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + level) / 2, array.size - 1)) * standard_error(array)
    return Interval(mean, mean - half, mean + half)


def same_within(margin: float, differences: Sequence[Array], components: VarianceComponents) -> float:
    """The p-value of "the true difference is `margin` points or more" (two one-sided tests, equation (10)).

    Where the truth is at the margin, at least that share of the items differ: no smaller variance is believed.
    """
    estimate = abs(mean_difference(differences))
    if estimate >= margin:
        return 1.0
    if is_constant(differences):
        return float((1 - (margin - estimate) / SCALE) ** components.items)
    floor = margin * (SCALE - margin) / components.items
    return components.error.at_least(floor).beyond(margin - estimate)


def _constant(difference: float, items: int, level: float) -> tuple[float, float]:
    """The interval where all `items` pairs differ by the same amount in [-1, 1].

    Items of another kind may make up a share q that shows up nowhere among them with chance (1 − q)^N ≥ α/2 (the
    exact binomial limit for a count of zero): they can move the mean by q times what is left of the scale.
    """
    share = 1 - ((1 - level) / 2) ** (1 / items)
    return difference - share * (1 + difference), difference + share * (1 - difference)
