"""Curves of gain against forgetting, read where they are equal: exact on lines, with intervals that hold."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.reports.statistics import equal_gain as equal_gain_module
from esft_bench.reports.statistics.equal_gain import (
    Curves,
    equal_gain,
    gain_within,
    gained_within,
    loss_at_gain,
    lost_at_equal_gain,
)

numbers = st.floats(-50, 100, allow_nan=False)
lists = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6)


def curve(points):
    gain, loss = zip((0.0, 0.0), *points, strict=True)
    return np.array(gain), np.array(loss)


@given(st.floats(0.1, 5), st.lists(st.floats(0.5, 20), min_size=1, max_size=6), st.floats(0, 1))
def test_on_a_straight_line_the_reading_is_the_line(slope, steps, share):
    gain = np.concatenate([[0.0], np.cumsum(steps)])
    target = float(share * gain[-1])
    assert loss_at_gain(gain, slope * gain, target) == pytest.approx(slope * target, abs=1e-9)
    assert gain_within(gain, slope * gain, slope * target) == pytest.approx(target, abs=1e-9)


@given(lists, st.floats(0.1, 100))
def test_nothing_is_read_where_no_point_of_a_curve_reaches(points, target):
    gain, loss = curve(points)
    assert np.isnan(loss_at_gain(gain, loss, target)) == (gain.max() < target)


@given(lists, st.floats(0.1, 100))
def test_the_reading_is_scipys_interpolation_up_to_the_first_point_that_gains_enough(points, target):
    gain, loss = curve(points)
    if gain.max() >= target:
        first = int(np.argmax(gain >= target))
        between = np.interp(target, gain[first - 1 : first + 1], loss[first - 1 : first + 1])
        assert loss_at_gain(gain, loss, target) == pytest.approx(between, abs=1e-9)


@given(lists, st.floats(0, 60), st.floats(0, 60))
def test_whoever_may_lose_more_gains_no_less(points, one, other):
    gain, loss = curve(points)
    little, much = sorted((one, other))
    assert gain_within(gain, loss, little) <= gain_within(gain, loss, much) + 1e-9
    assert gain_within(gain, loss, much) <= gain.max() + 1e-9


def two_methods(rng, runs=1, items=200, same=False) -> Iterator[Curves]:
    """Draws of two methods, trained in `runs` runs, with what each truly gains and loses at two rates."""
    gains = np.array([[30.0, 60.0], [30.0, 60.0] if same else [40.0, 64.0]])
    losses = np.array([[2.0, 6.0], [2.0, 6.0] if same else [1.0, 3.0]])
    while True:
        yield Curves(
            ["one", "other"],
            ["task"],
            [_drawn(rng, gains, runs, items)],
            [_drawn(rng, losses, runs, 3 * items, spread=0.3)[None]],
        )


def _drawn(rng, truth, runs, items, spread=1.0):
    """Paired differences [rows, points, runs, items] about true means: an item's own, a run's own, and the rest."""
    rows, points = truth.shape
    of_items = 25 * rng.standard_normal((1, 1, 1, items)) + 15 * rng.standard_normal((rows, points, 1, items))
    of_runs = (2.0 if runs > 1 else 0.0) * rng.standard_normal((rows, points, runs, 1))
    rest = 20 * rng.standard_normal((rows, points, runs, items))
    found = truth[:, :, None, None] + spread * (of_items + of_runs + rest)
    return np.concatenate([np.zeros((rows, 1, runs, items)), found], axis=1)


def truth_at(target):
    """What `two_methods` truly lose at a gain."""
    return [
        float(loss_at_gain(np.array([0, *gains]), np.array([0, *losses]), target))
        for gains, losses in (([30, 60], [2, 6]), ([40, 64], [1, 3]))
    ]


@pytest.fixture
def few_draws(monkeypatch):
    """Enough to see whether intervals hold, for the time that a test has."""
    monkeypatch.setattr(equal_gain_module, "DRAWS", 199)


def at_chosen_gain(curves):
    """The gain that is chosen, the curves read there, and what the truth is there (not a number if it has none)."""
    at = {task: gain for task, (gain, _) in equal_gain(curves).items()}
    one, other = truth_at(at["task"])
    return lost_at_equal_gain(curves, at), one - other


def within_budget(curves):
    """The curves read at a loss of 2.5 points, and what the truth is there."""
    return gained_within(curves, 2.5), 33.75 - 58.0


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("read", [at_chosen_gain, within_budget])
def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says(runs, read, few_draws):
    draws = two_methods(np.random.default_rng(1), runs, items=100)
    held = []
    for curves, _ in zip(draws, range(150), strict=False):
        readings, truth = read(curves)
        found = readings.differences.get(("one", "other", "task"))
        if found is not None and np.isfinite(truth):  # else one of the two, or its truth, does not reach so far
            held.append(found.low <= truth <= found.high)
    assert len(held) > 135
    assert 0.90 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("runs", [1, 3])
def test_methods_that_are_the_same_are_told_apart_no_more_often_than_by_chance(runs, few_draws):
    draws = two_methods(np.random.default_rng(2), runs, items=100, same=True)
    told = [
        one.p_value <= 0.05
        for curves, _ in zip(draws, range(150), strict=False)
        if (one := at_chosen_gain(curves)[0].differences.get(("one", "other", "task")))
    ]
    assert np.mean(told) <= 0.09


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_a_curve_beside_itself_differs_by_nothing(runs):
    curves = next(two_methods(np.random.default_rng(3), runs))
    twice = Curves(curves.rows, curves.tasks, [curves.gains[0][[0, 0]]], [curves.losses[0][:, [0, 0]]])
    at = {task: gain for task, (gain, _) in equal_gain(twice).items()}
    for found in (lost_at_equal_gain(twice, at), gained_within(twice, 1.0)):
        one = found.differences["one", "other", "task"]
        assert (one.estimate, one.low, one.high, one.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_a_row_that_gains_too_little_is_no_good_one_and_is_not_read():
    curves = next(two_methods(np.random.default_rng(4)))
    weak = curves.gains[0][:1] / 4
    three = Curves(
        ["one", "other", "weak"],
        ["task"],
        [np.concatenate([curves.gains[0], weak])],
        [np.concatenate([curves.losses[0], curves.losses[0][:, :1]], axis=1)],
    )
    at, weakest = equal_gain(three)["task"]
    assert at > 45
    assert weakest == "one"
    found = lost_at_equal_gain(three, {"task": at})
    assert ("weak", "task") not in found.found
    assert ("one", "other", "task") in found.differences


def test_an_ablation_never_decides_where_curves_are_read():
    curves = next(two_methods(np.random.default_rng(4)))
    without = Curves(curves.rows, curves.tasks, curves.gains, curves.losses, frozenset({"one"}))
    assert equal_gain(without)["task"][1] == "other"


def test_a_row_with_a_missing_point_takes_no_items_from_the_others():
    curves = next(two_methods(np.random.default_rng(5)))
    gains, losses = curves.gains[0].copy(), curves.losses[0].copy()
    gains[1], losses[:, 1] = np.nan, np.nan
    found = gained_within(Curves(curves.rows, curves.tasks, [gains], [losses]), 1.0)
    whole = gained_within(curves, 1.0)
    assert found.found["one", "task"].estimate == pytest.approx(whole.found["one", "task"].estimate)
    assert ("other", "task") not in found.found


def test_the_mean_over_tasks_is_read_where_all_tasks_are():
    one, other = (next(two_methods(np.random.default_rng(seed))) for seed in (6, 7))
    both = Curves(
        one.rows, ["a", "b"], [one.gains[0], other.gains[0]], [np.concatenate([one.losses[0], other.losses[0]])]
    )
    found = lost_at_equal_gain(both, {"a": 30.0, "b": 30.0}).found
    assert found["one", ""].estimate == pytest.approx((found["one", "a"].estimate + found["one", "b"].estimate) / 2)
    assert ("one", "") not in lost_at_equal_gain(both, {"a": 30.0, "b": 500.0}).found
    assert not lost_at_equal_gain(both, {"a": 30.0}).found.keys() & {("one", "")}
