"""The statistics against laws, against known values, and against their own promises by simulation."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from esft_bench.reports.statistics.detectable import Deviations, detectable_effect
from esft_bench.reports.statistics.error import error_of
from esft_bench.reports.statistics.family import Family
from esft_bench.reports.statistics.moderation import moderated, prior_of
from esft_bench.reports.statistics.paired import mean_interval, paired_difference, same_within, standard_error
from esft_bench.reports.statistics.resampling import bootstrap, mcnemar, sign_flip
from esft_bench.reports.statistics.variance import VarianceComponents, variance_components

OFFICIAL = Path(__file__).parents[3] / "shared" / "data" / "esft_official" / "completions"
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
BINARY = arrays(float, st.tuples(st.integers(1, 4), st.integers(2, 30)), elements=st.sampled_from([0.0, 100.0]))


def judged(p_values: Sequence[float]) -> Family:
    family = Family()
    family.join(lambda: dict(enumerate(p_values)))
    return family


@given(P_VALUES)
def test_a_family_of_one_keeps_its_p_value_and_larger_ones_raise_theirs(p_values: list[float]) -> None:
    found = judged(p_values)
    harmonic = sum(1 / rank for rank in range(1, len(p_values) + 1))
    for key, raw in enumerate(p_values):
        assert raw - 1e-12 <= found.adjusted[key] <= min(1.0, raw * len(p_values) * harmonic) + 1e-12
    assert judged(p_values[:1]).adjusted[0] == pytest.approx(p_values[0])


@given(P_VALUES)
def test_what_is_below_the_level_of_a_family_would_count_as_one_more(p_values: list[float]) -> None:
    found = judged([*p_values, 1.0])
    before = sum(found.holds(key) for key in range(len(p_values) + 1))
    again = judged([*p_values, found.level * 0.999])
    assert sum(again.holds(key) for key in range(len(p_values) + 1)) > before


def test_a_family_that_was_judged_takes_no_more_in() -> None:
    found = judged([0.01])
    assert found.holds(0)
    assert not found.holds("never made")
    with pytest.raises(RuntimeError, match="judged"):
        found.join(dict)


@settings(max_examples=30, deadline=None)
@given(BINARY, st.randoms(use_true_random=False))
def test_an_interval_contains_its_estimate_and_a_swap_of_the_methods_mirrors_it(
    first: np.ndarray, random: object
) -> None:
    second = first.copy().ravel()
    random.shuffle(second)  # type: ignore[attr-defined]
    found = paired_difference([first - second.reshape(first.shape)])
    mirrored = paired_difference([second.reshape(first.shape) - first])
    assert found is not None
    assert mirrored is not None
    assert found.low - 1e-9 <= found.estimate <= found.high + 1e-9
    assert mirrored.estimate == pytest.approx(-found.estimate)
    assert mirrored.p_value == pytest.approx(found.p_value)
    assert 0 < found.p_value <= 1


def test_the_exact_tests_agree_on_binary_scores() -> None:
    rng = np.random.default_rng(0)
    differences = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=150)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    assert mcnemar(wins, losses) == pytest.approx(stats.binomtest(wins, wins + losses).pvalue)
    assert sign_flip(differences[:, None])[0] == pytest.approx(mcnemar(wins, losses), abs=0.01)
    assert mcnemar(0, 0) == 1.0


def test_mean_interval_is_the_t_interval_and_a_single_value_has_none() -> None:
    found = mean_interval([80.0, 82.0, 87.0])
    low, high = stats.t.interval(0.95, 2, loc=83.0, scale=stats.sem([80.0, 82.0, 87.0]))
    assert (found.estimate, found.low, found.high) == pytest.approx((83.0, low, high))
    assert standard_error([80.0, 82.0, 87.0]) == pytest.approx(stats.sem([80.0, 82.0, 87.0]))
    assert np.isnan(mean_interval([80.0]).low)


def test_items_that_all_tie_still_leave_room_for_a_difference_nobody_saw() -> None:
    found = paired_difference([np.zeros((1, 200))])
    assert found is not None
    assert found.p_value == 1.0
    assert found.high == pytest.approx(100 * (1 - 0.025 ** (1 / 200)))
    assert found.low == -found.high


def test_a_pair_that_is_missing_counts_neither_for_nor_against() -> None:
    differences = np.array([[100.0, 0.0, np.nan, 0.0, 100.0, 0.0, 0.0, np.nan]])
    whole = paired_difference([differences[:, ~np.isnan(differences[0])]])
    assert paired_difference([differences]) == whole
    assert paired_difference([np.full((2, 3), np.nan)]) is None


@pytest.mark.parametrize(
    ("task", "estimate", "low", "high"), [("intent", 4.0, 1.2, 6.6), ("translation", -1.9, -7.3, 4.0)]
)
def test_gate_minus_token_on_the_released_completions(task: str, estimate: float, low: float, high: float) -> None:
    if not OFFICIAL.is_dir():
        pytest.skip("skipped, no data")
    gate, token = (
        np.array([[100.0 * json.loads(line)["score"] for line in (OFFICIAL / name / f"{task}.jsonl").open()]])
        for name in ("gate", "token")
    )
    found = paired_difference([gate - token])
    assert found is not None
    assert found.estimate == pytest.approx(estimate, abs=0.05)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.3)
    assert (found.p_value < 0.05) == (task == "intent")


def test_the_paired_test_rejects_a_true_null_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hardness = rng.random((150, 1))
    graded = rng.normal(hardness, 0.3, (150, 1000)) - rng.normal(hardness, 0.3, (150, 1000))
    assert 0.03 < float((sign_flip(graded, draws=999) < 0.05).mean()) < 0.07
    binary = (rng.random((150, 1000)) < hardness).astype(int) - (rng.random((150, 1000)) < hardness)
    exact = np.mean([mcnemar(int((d > 0).sum()), int((d < 0).sum())) < 0.05 for d in binary.T])
    assert 0.01 < exact < 0.06


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    found = [bootstrap([rng.normal(1.0, 10.0, 120)], draws=999, seed=trial) for trial in range(600)]
    assert 0.92 < np.mean([one.low <= 1.0 <= one.high for one in found]) < 0.97


def test_with_three_runs_the_t_interval_covers_and_a_bootstrap_over_runs_would_not() -> None:
    rng = np.random.default_rng(3)
    covered, naive = 0, 0
    for _ in range(400):
        differences = rng.normal(0, 8, (3, 1)) + rng.normal(0, 20, (1, 80)) + rng.normal(0, 20, (3, 80))
        found = paired_difference([differences])
        assert found is not None
        covered += found.low <= 0 <= found.high
        again = differences[rng.integers(0, 3, (400, 3))].mean(axis=1)
        means = np.take_along_axis(again, rng.integers(0, 80, (400, 80)), axis=1).mean(axis=1)
        naive += np.quantile(means, 0.025) <= 0 <= np.quantile(means, 0.975)
    assert covered / 400 > 0.90
    assert naive < covered - 20


def test_with_runs_alone_the_error_is_students_and_with_items_alone_too() -> None:
    runs, items = error_of(4.0, 0.0, 0.0, 2, 1e9), error_of(0.0, 4.0, 0.0, 2, 9)
    for error, freedom in ((runs, 2), (items, 9)):
        assert error.quantile(0.025) == pytest.approx(2 * stats.t.isf(0.025, freedom), rel=1e-3)
        assert error.beyond(7.0) == pytest.approx(stats.t.sf(3.5, freedom), rel=1e-3)


@pytest.mark.parametrize(("runs", "between"), [(2, 4.0), (2, 8.0), (3, 4.0), (3, 8.0)])
def test_few_runs_reject_a_true_null_no_more_often_than_they_say_far_out_in_the_tail_too(
    runs: int, between: float
) -> None:
    rng, p_values = np.random.default_rng(8), []
    for _ in range(1500):
        differences = rng.normal(0, between, (runs, 1)) + rng.normal(0, 20, (1, 60)) + rng.normal(0, 20, (runs, 60))
        found = paired_difference([differences])
        assert found is not None
        p_values.append(found.p_value)
    for level in (0.05, 0.005):
        rejected = sum(p < level for p in p_values)
        assert rejected <= stats.binom.isf(0.001, len(p_values), level)


def test_variances_that_are_alike_are_read_together_and_unlike_ones_are_not() -> None:
    rng = np.random.default_rng(9)

    def drawn(scales: Sequence[float]) -> list[VarianceComponents]:
        return [VarianceComponents(s * rng.chisquare(2) / 2, 1.0, 0.1, 2, 59, 3, 60) for s in scales]

    alike, unlike = moderated(drawn([1.0] * 200)), moderated(drawn([0.01, 100.0] * 100))
    assert min(one.run_freedom for one in alike) > 10
    assert max(one.run_freedom for one in unlike) < 4
    before = drawn([1.0] * 40)
    assert all(after.run >= one.run for one, after in zip(before, moderated(before), strict=True))


def test_the_prior_of_variances_is_found_again() -> None:
    rng = np.random.default_rng(10)
    true = 3.0 * 8 / rng.chisquare(8, 20_000)
    found = prior_of(true * rng.chisquare(2, true.size) / 2, np.full(true.size, 2.0))
    assert (found.variance, found.freedom) == (pytest.approx(3.0, rel=0.05), pytest.approx(8.0, rel=0.15))


def test_rows_at_the_margin_are_called_the_same_no_more_often_than_they_should() -> None:
    rng, called = np.random.default_rng(11), 0
    for _ in range(400):
        wins = np.where(rng.random((1, 300)) < 0.02, 100.0, 0.0)  # every difference is to one side: 2 points in truth
        called += same_within(2.0, [wins], variance_components([wins], False)) < 0.05
    assert called / 400 < 0.08
    ties = np.zeros((1, 300))
    assert same_within(2.0, [ties], variance_components([ties], False)) == pytest.approx(0.98**300)
    assert same_within(2.0, [ties + 2.0], variance_components([ties], False)) == 1.0


@given(st.integers(10, 5000), st.integers(1, 10), st.integers(1, 30))
def test_more_items_detect_smaller_effects_and_more_comparisons_larger_ones(n: int, runs: int, m: int) -> None:
    def effect(items: int, level: float) -> float:
        return detectable_effect(Deviations().components(items, runs), level)

    delta = effect(n, 0.05 / m)
    assert effect(4 * n, 0.05 / m) <= delta + 1e-6
    assert effect(n, 0.05 / (m + 1)) >= delta - 1e-6
    assert 0 < delta <= 100


def test_the_minimum_detectable_effect_is_found_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    delta = detectable_effect(Deviations(items=30.0).components(200, 1))
    found = sign_flip(rng.normal(delta, 30.0, (200, 600)), draws=999) < 0.05
    assert 0.75 < float(found.mean()) < 0.86
