"""The statistics of a comparison: is one row better than another, and how sure can one be?

Two methods answer the same items, so scores are compared item by item. Notation: D[r, i] is the difference of two
methods in training run r on item i, on whatever scale the scores have; NaN where either has no score. R training
runs, N items. A comparison may average over several benchmarks; it then has one such *block* for each.

The paired difference is the mean of the run means, averaged over K blocks:

    (1)  d = 1/K Σ_k 1/R_k Σ_r mean_i D_k[r, i]

**One run.** What varies is the choice of items. The interval is the percentile bootstrap: draw N of the N items with
replacement, within each block, and take the 2.5% and 97.5% quantiles of (1) (Efron 1979). The test is exact: if the
methods were equal, each item's difference could as well have had the other sign.

    (2)  binary scores: p = P(|X − m/2| ≥ |b − m/2|),  X ~ Binomial(m, 1/2),  b of m discordant items for the first
         (McNemar's exact test)
    (3)  graded scores, averages: p = (1 + #{|Σ s_i w_i D_i| ≥ |Σ w_i D_i|}) / (1 + draws), s_i = ±1 at random

Neither knows anything of how much a method varies from one training run to the next.

**Several runs.** Runs and items are crossed: D[r, i] = d + a_r + b_i + e_ri. With A, C and E the variances of the run
means, the item means and the residuals, divided by R, N and R·N:

    (4)  SE² = max(C, E) + max(A − E, 0)          items, and runs beyond what items explain
    (5)  df  = SE⁴ / (A²/(R−1) + C²/(N−1))          (Satterthwaite 1946)
    (6)  interval d ± t(df)·SE,  p from t = d / SE

All pairs of k rows of a column share one variance between runs, because two or three runs of a pair say little about
it and corrected tests live in the tails of t:

    (9)  A − E in (4) is its mean over the pairs, with (R−1)(k−1) degrees of freedom in (5)

A bootstrap over three runs cannot reach beyond the three it saw and covers far less than it claims (a test shows
it); (6) pays for few runs with a wide t.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from esft_bench.reports.blocks import Array, Spread, clean, estimate_of, is_binary, is_constant, spread_of, weighted
from esft_bench.reports.resampling import Interval, bootstrap, mcnemar, sign_flip


@dataclass(frozen=True)
class Comparison(Interval):
    """A paired difference: its interval, the two-sided p-value of "no difference", and what it rests on."""

    p_value: float
    standard_error: float
    freedom: float
    items: int
    runs: int


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (1979), in the order given: the chance of any false rejection stays below α.

    (7)  p̃_(j) = max_{l ≤ j} min(1, (m − l + 1) p_(l)), over the sorted p-values
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, (p.size - np.arange(p.size)) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return [float(value) for value in adjusted]


def compare(
    blocks: Sequence[Array], *, shared_runs: bool = False, level: float = 0.95, scale: float = 100.0
) -> Comparison | None:
    """Compare two methods on one benchmark or on the average of several.

    Args:
        blocks: for each benchmark the paired differences D [runs, items], NaN where a pair is missing.
        shared_runs: the blocks' rows are the same training runs (several benchmarks of each run), so that their run
            effects do not average out.
        level: of the interval.
        scale: the largest difference a single item can make (100 for scores in points).

    Returns:
        None where a block has no pair at all. One run: bootstrap and exact test; several: equations (4) to (6).
    """
    kept = clean(blocks, shared_runs)
    if kept is None:
        return None
    spread, estimate = spread_of(kept, shared_runs), estimate_of(kept)
    error, freedom = spread.error()
    if is_constant(kept):
        low, high = _constant(estimate / scale, spread.items, level)
        around = Interval(estimate, low * scale, high * scale)
    elif spread.runs == 1:
        around = bootstrap([block[0] for block in kept], level)
    else:
        half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
        around = Interval(estimate, estimate - half, estimate + half)
    p_value = p_value_of(kept, spread, scale)
    return Comparison(estimate, around.low, around.high, p_value, error, freedom, spread.items, spread.runs)


def smallest_resolvable_difference(
    items: int,
    runs: int = 1,
    *,
    sd_items: float = 50.0,
    sd_runs: float = 0.0,
    comparisons: int = 1,
    alpha: float = 0.05,
    power: float = 0.8,
    scale: float = 100.0,
) -> float:
    """Return the true difference that a paired test on `items` items and `runs` runs finds with chance `power`.

    (8)  δ = (t_{1−α/2m} + t_power)·√(sd_items²/N + sd_runs²/R)

    `sd_items` is the standard deviation of the paired differences over items (50 points: binary scores where a
    quarter of the items differ), `sd_runs` that of a method's difference between runs, m the number of
    `comparisons` (its Bonferroni share is where Holm starts). With one run the exact test can reject nothing
    with fewer than 1 + log2(m/α) differing items, so δ is never less than their share of the items.
    """
    error = float(np.sqrt(sd_items**2 / items + sd_runs**2 / runs))
    freedom = runs - 1 if runs > 1 and sd_runs**2 / runs > sd_items**2 / items else max(items - 1, 1)
    return resolvable(error, freedom, items, runs, comparisons, alpha, power, scale)


def resolvable(
    error: float,
    freedom: float,
    items: int,
    runs: int,
    comparisons: int,
    alpha: float = 0.05,
    power: float = 0.8,
    scale: float = 100.0,
) -> float:
    """Equation (8) from a standard error and its degrees of freedom."""
    factor = stats.t.ppf(1 - alpha / comparisons / 2, freedom) + stats.t.ppf(power, freedom)
    floor = scale * np.ceil(1 + np.log2(comparisons / alpha)) / items if runs == 1 else 0.0
    return float(min(scale, max(factor * error, floor)))


def p_value_of(blocks: Sequence[Array], spread: Spread, scale: float) -> float:
    """The test that fits cleaned blocks: exact for one run, equation (6) for several."""
    estimate = estimate_of(blocks)
    if is_constant(blocks):
        return 1.0 if estimate == 0 else min(1.0, 2.0 ** (1 - spread.items))
    if spread.runs > 1:
        error, freedom = spread.error()
        return float(2 * stats.t.sf(abs(estimate) / error, freedom))
    if is_binary(blocks, scale):
        return mcnemar(int((blocks[0] > 0).sum()), int((blocks[0] < 0).sum()))
    return float(sign_flip(weighted([block[0] for block in blocks])[:, None])[0])


def _constant(difference: float, items: int, level: float) -> tuple[float, float]:
    """The interval where all `items` pairs differ by the same amount in [-1, 1].

    Items of another kind may make up a share q that shows up nowhere among them with chance (1 − q)^N ≥ α/2 (the
    exact binomial limit for a count of zero): they can move the mean by q times what is left of the scale.
    """
    share = 1 - ((1 - level) / 2) ** (1 / items)
    return difference - share * (1 + difference), difference + share * (1 - difference)
