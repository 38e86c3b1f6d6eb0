"""What methods forget when they have gained the same: curves over learning rates, read where they are equal.

A method is a curve. At each multiple of its learning rate it was trained in R runs; with A[k, r, i] the paired
difference to the base model on item i of its task, and L_b[k, r, j] what it loses against the base model on item j of
benchmark b of B (general ability: base minus trained; bits: trained minus base), its points are

    (10)  g_k = mean_r mean_i A[k, r, i],   l_k = 1/B Σ_b mean_r mean_j L_b[k, r, j],   g_0 = l_0 = 0

Point 0 is the base model, which every method is at rate 0; the others follow in the order of their rates, and between
neighbours the curve is the straight line. Where it first has gained G, it has lost

    (11)  l(G) = l_{k−1} + w (l_k − l_{k−1}),   w = (G − g_{k−1}) / (g_k − g_{k−1}),   k = min{k : g_k ≥ G}

and the most that it gains before it first loses more than b is

    (12)  g(b) = max{g_0, …, g_{k−1}, g_{k−1} + v (g_k − g_{k−1})},   v = (b − l_{k−1}) / (l_k − l_{k−1}),
          k = min{k : l_k > b};  the highest g_k where there is no such k

Nothing is extrapolated: a curve whose every g_k < G does not reach G. Good is a row whose highest gain is at least
GOOD of the highest of all rows (ablations never are); the gain to read at is one that all good rows surely reach:

    (13)  G = min over good rows of the SURE quantile of max_k g_k, as resampled

**Uncertainty** is that of (11) and (12) themselves, by resampling items and runs, the same ones for all rows and
points, so that rows are paired; the general items are the same ones for all tasks too. With one run the interval is the
percentile bootstrap over items, p twice the smaller share of draws on either side of 0 (where that is none, the normal
tail of the draws' standard deviation: finer than one in so many draws). With several, A is the
bootstrap's variance over runs alone (R − 1 of R drawn, which makes it unbiased; Rao and Wu 1988), C over items alone
and A + C + E over both; SE, degrees of freedom and interval are then (4) to (6). A reading that fails in more than one
draw of twenty counts as not reached. G is held fixed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from esft_bench.reports.statistics.error import Array
from esft_bench.reports.statistics.resampling import SEED, Interval

GOOD = 0.8
"""Rows with at least this share of the highest gain are good ones."""
SURE = 0.005
"""A curve is read at a gain that it misses in no more draws than these."""
DRAWS = 1_999
UNREACHED = 0.05
"""More draws than these without a reading, and there is none."""
ALL_TASKS = ""

Scheme = Literal["none", "items", "runs", "both"]
Points = list[tuple[Array, Array]]
"""For each task gains and losses [draws, rows, points]."""
Key = tuple[str, str]
"""(row, task); the mean over tasks has an empty task."""


@dataclass(frozen=True)
class Difference(Interval):
    """A difference of two readings, with the p-value of "none"."""

    p_value: float


@dataclass(frozen=True)
class Curves:
    """Paired differences to the base model, the base model itself being point 0; NaN where there is nothing.

    Attributes:
        rows, tasks: names.
        gains: for each task an array [rows, points, runs, items].
        losses: for each benchmark an array [tasks, rows, points, runs, items]; positive is worse.
        ablations: rows that are no good ones, however much they gain.
    """

    rows: Sequence[str]
    tasks: Sequence[str]
    gains: Sequence[Array]
    losses: Sequence[Array]
    ablations: frozenset[str] = frozenset()

    @property
    def runs(self) -> int:
        """Training runs of each point."""
        return int(self.gains[0].shape[2])

    def points(self, scheme: Scheme) -> Points:
        """Equation (10), for what was drawn; `none` draws nothing and has one draw."""
        rng = np.random.default_rng(SEED)
        size = 1 if scheme == "none" else DRAWS
        by_items, by_runs = scheme in ("items", "both"), scheme in ("runs", "both")
        of_items = [_shares(rng, size, array.shape[-1], by_items) for array in self._whole_losses]
        found = []
        for task, array in enumerate(self._whole_gains):
            of_runs = _shares(rng, size, self.runs, by_runs, fewer=1)
            gain = _means(array, of_runs, _shares(rng, size, array.shape[-1], by_items))
            each = [_means(loss[task], of_runs, w) for loss, w in zip(self._whole_losses, of_items, strict=True)]
            found.append((gain, np.mean(each, axis=0)))
        return found

    @cached_property
    def _whole_gains(self) -> list[Array]:
        return [_whole(array) for array in self.gains]

    @cached_property
    def _whole_losses(self) -> list[Array]:
        return [_whole(array) for array in self.losses]


@dataclass(frozen=True)
class Readings:
    """Every curve read at one place.

    Attributes:
        at: the place, by task: a gain, or a loss.
        found: by row and task, with the mean over tasks where all of them were read; what is not there was not reached.
        differences: of two rows (first minus second) by their names and the task.
    """

    at: Mapping[str, float]
    found: Mapping[Key, Interval]
    differences: Mapping[tuple[str, str, str], Difference]
    runs: int


def loss_at_gain(gain: Array, loss: Array, target: float) -> Array:
    """Equation (11) along the last axis; NaN where the curve never gains so much."""
    reached = gain >= target
    place = np.maximum(reached.argmax(-1), 1)
    before, after, lost, lost_after = _around(gain, loss, place)
    with np.errstate(over="ignore"):  # of numbers that have no difference to speak of, and are not taken
        share = np.where(after > before, (target - before) / np.where(after > before, after - before, 1.0), 1.0)
    read = np.where(reached[..., 0], loss[..., 0], lost + share * (lost_after - lost))
    return np.where(reached.any(-1), read, np.nan)


def gain_within(gain: Array, loss: Array, budget: float) -> Array:
    """Equation (12) along the last axis."""
    over = loss > budget
    place = np.maximum(over.argmax(-1), 1)
    gained, gained_after, before, after = _around(gain, loss, place)
    share = (budget - before) / np.where(over.any(-1), after - before, 1.0)
    highest = np.maximum.accumulate(gain, axis=-1)
    until = np.take_along_axis(highest, place[..., None] - 1, -1)[..., 0]
    return np.where(over.any(-1), np.maximum(until, gained + share * (gained_after - gained)), highest[..., -1])


def equal_gain(curves: Curves) -> Mapping[str, tuple[float, str]]:
    """Equation (13): for each task the gain to read at and the good row that decides it; none where nothing gains."""
    found = {}
    for task, (now, drawn) in enumerate(zip(curves.points("none"), curves.points("both"), strict=True)):
        most = dict(zip(curves.rows, now[0][0].max(-1), strict=True))
        known = {row: value for row, value in most.items() if np.isfinite(value) and row not in curves.ablations}
        good = [row for row, value in known.items() if value > 0 and value >= GOOD * max(known.values())]
        sure = {row: float(np.quantile(drawn[0][:, curves.rows.index(row)].max(-1), SURE)) for row in good}
        weakest = min(sure, key=lambda row: sure[row], default="")
        if weakest and sure[weakest] > 0:
            found[curves.tasks[task]] = sure[weakest], weakest
    return found


def lost_at_equal_gain(curves: Curves, at: Mapping[str, float]) -> Readings:
    """What each row has lost where it has gained `at`, by task."""
    return _read(curves, at, loss_at_gain)


def gained_within(curves: Curves, budget: float) -> Readings:
    """The most that each row gains before it has lost more than `budget`."""
    return _read(curves, dict.fromkeys(curves.tasks, budget), gain_within)


def _read(curves: Curves, at: Mapping[str, float], read: Callable[[Array, Array, float], Array]) -> Readings:
    """Read all curves at a place, with intervals and all paired differences."""
    tasks = [task for task in curves.tasks if task in at]
    several: tuple[Scheme, ...] = ("runs", "both") if curves.runs > 1 else ()
    schemes: tuple[Scheme, ...] = ("none", "items", *several)
    values: dict[Scheme, dict[str, Array]] = {}
    for scheme in schemes:
        points = dict(zip(curves.tasks, curves.points(scheme), strict=True))
        # Rounded, since equal sums in another order differ in the last bit.
        of_tasks = {task: np.round(read(*points[task], at[task]), 9) for task in tasks}
        mean = {ALL_TASKS: np.mean(list(of_tasks.values()), axis=0)} if len(tasks) == len(curves.tasks) > 1 else {}
        values[scheme] = of_tasks | mean
    found: dict[Key, Interval] = {}
    differences: dict[tuple[str, str, str], Difference] = {}
    for task in values["none"]:
        freedom = (len(tasks) if task == ALL_TASKS else 1) * (curves.runs - 1)
        of_rows = {scheme: dict(zip(curves.rows, values[scheme][task].T, strict=True)) for scheme in schemes}
        for row in curves.rows:
            if one := _interval({scheme: of_rows[scheme][row] for scheme in schemes}, curves, freedom):
                found[row, task] = one
        for row, other in combinations([row for row in curves.rows if (row, task) in found], 2):
            if one := _interval({s: of_rows[s][row] - of_rows[s][other] for s in schemes}, curves, freedom):
                differences[row, other, task] = one
    return Readings(at, found, differences, curves.runs)


def _interval(values: Mapping[Scheme, Array], curves: Curves, freedom: int) -> Difference | None:
    """The interval of a reading from its draws [draws]; None where it is not reached. Equations (4) to (6)."""
    estimate = float(values["none"][0])
    drawn = values["both" if curves.runs > 1 else "items"]
    if not np.isfinite(estimate) or np.isnan(drawn).mean() > UNREACHED:
        return None
    if curves.runs == 1:
        kept = drawn[np.isfinite(drawn)]
        low, high = np.quantile(kept, (0.025, 0.975))
        return Difference(estimate, float(low), float(high), _p_value(estimate, kept))
    run, item, both = (float(np.nanvar(values[scheme], ddof=1)) for scheme in ("runs", "items", "both"))
    residual = max(both - run - item, 0.0)
    variance = max(item, residual) + max(run - residual, 0.0)
    if variance == 0:
        return Difference(estimate, estimate, estimate, 1.0 if estimate == 0 else 0.0)
    items = min(array.shape[-1] for array in curves.gains)
    degrees = max(variance**2 / (run**2 / freedom + item**2 / max(items - 1, 1)), 1.0)
    half = float(stats.t.ppf(0.975, degrees)) * variance**0.5
    p_value = float(2 * stats.t.sf(abs(estimate) / variance**0.5, degrees))
    return Difference(estimate, estimate - half, estimate + half, p_value)


def _p_value(estimate: float, drawn: Array) -> float:
    """Of "it is 0", from draws of one run's items."""
    tail = float(min((drawn <= 0).sum(), (drawn >= 0).sum()))
    share = min(1.0, 2.0 * (1 + tail) / (1 + drawn.size))
    spread = float(drawn.std())
    return min(share, float(2 * stats.norm.sf(abs(estimate) / spread))) if not tail and spread else share


def _around(gain: Array, loss: Array, place: NDArray[np.intp]) -> tuple[Array, Array, Array, Array]:
    """Gains before and at a place of each curve, and losses before and at it."""
    at = place[..., None]
    gain_before, gain_at = (np.take_along_axis(gain, index, -1)[..., 0] for index in (at - 1, at))
    loss_before, loss_at = (np.take_along_axis(loss, index, -1)[..., 0] for index in (at - 1, at))
    return gain_before, gain_at, loss_before, loss_at


def _shares(rng: np.random.Generator, draws: int, size: int, drawn: bool, fewer: int = 0) -> Array:
    """What each of `size` units counts in each draw [draws, size]; all alike where nothing is drawn."""
    count = max(size - fewer, 1)
    if not drawn or size == 1:
        return np.full((draws, size), 1.0 / size)
    return np.asarray(rng.multinomial(count, np.full(size, 1.0 / size), size=draws) / count, dtype=float)


def _means(array: Array, of_runs: Array, of_items: Array) -> Array:
    """Means of [rows, points, runs, items] with these shares: [draws, rows, points]."""
    over_items = np.tensordot(of_items, array, axes=(1, 3))
    return np.asarray(np.einsum("dabr,dr->dab", over_items, of_runs))


def _whole(array: Array) -> Array:
    """Without the items that some curve lacks at some point; a curve with nothing at all takes none away."""
    curves = array.reshape(-1, *array.shape[-3:])
    there = curves[np.isfinite(curves).any(axis=(1, 2, 3))]
    return array[..., np.isfinite(there).all(axis=(0, 1, 2))]
