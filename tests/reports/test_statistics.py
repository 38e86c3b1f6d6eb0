"""The statistics against laws, against known values, and against their own promises by simulation."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from esft_bench.reports.statistics.detectable import Deviations, minimum_detectable_effect
from esft_bench.reports.statistics.paired import holm, mean_interval, paired_difference, standard_error
from esft_bench.reports.statistics.ranking import rank
from esft_bench.reports.statistics.resampling import bootstrap, mcnemar, sign_flip

OFFICIAL = Path(__file__).parents[3] / "shared" / "data" / "esft_official" / "completions"
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
BINARY = arrays(float, st.tuples(st.integers(1, 4), st.integers(2, 30)), elements=st.sampled_from([0.0, 100.0]))


@given(P_VALUES)
def test_holm_never_lowers_a_p_value_and_stays_between_the_raw_and_the_bonferroni_value(p_values: list[float]) -> None:
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert raw <= adjusted <= min(1.0, raw * len(p_values)) + 1e-12


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_keeps_the_order_of_p_values_and_follows_a_permutation(p_values: list[float], random: object) -> None:
    adjusted = holm(p_values)
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    assert [adjusted[k] for k in order] == sorted(adjusted)
    random.shuffle(order)  # type: ignore[attr-defined]
    assert holm([p_values[k] for k in order]) == pytest.approx([adjusted[k] for k in order])


def test_holm_gives_the_textbook_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


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


@pytest.mark.parametrize("runs", [1, 3])
def test_an_equally_good_row_loses_its_bold_in_at_most_about_five_tables_of_a_hundred(runs: int) -> None:
    rng = np.random.default_rng(4)
    trials, lost = 200, 0
    for _ in range(trials):
        hardness = rng.random(100)
        noise = rng.normal(0, 0.05, (5, runs, 1)) if runs > 1 else np.zeros((5, 1, 1))
        scores = 100.0 * (rng.random((5, runs, 100)) < np.clip(hardness + noise, 0, 1))
        found = rank({str(k): [scores[k]] for k in range(5)})
        assert found is not None
        lost += len(found.indistinguishable) < 4
    assert lost / trials < 0.1


def test_bold_tells_a_clearly_worse_row_from_the_best_and_names_the_second() -> None:
    rng = np.random.default_rng(5)
    hardness = rng.random(300)
    rows: dict[str, Sequence[NDArray[np.float64]]] = {
        name: [100.0 * (rng.random((1, 300)) < np.clip(hardness + gain, 0, 1)).astype(np.float64)]
        for name, gain in (("worst", -0.4), ("good", 0.3), ("also", 0.3), ("middle", -0.1))
    }
    found = rank(rows)
    assert found is not None
    assert {found.best, *found.indistinguishable} == {"good", "also"}
    assert found.second == "middle"


@settings(max_examples=20, deadline=None)
@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_rows_does_not_change_what_is_best(order: list[str]) -> None:
    rng = np.random.default_rng(6)
    rows = {name: [rng.normal(50 + 3 * k, 20, (2, 60))] for k, name in enumerate("abcd")}
    whole, shuffled = rank(rows), rank({name: rows[name] for name in order})
    assert whole is not None
    assert shuffled is not None
    assert shuffled.best == whole.best
    assert shuffled.indistinguishable == whole.indistinguishable


@given(st.integers(10, 5000), st.integers(1, 10), st.integers(1, 30))
def test_more_items_detect_smaller_effects_and_more_comparisons_larger_ones(n: int, runs: int, m: int) -> None:
    delta = minimum_detectable_effect(n, runs, comparisons=m)
    assert minimum_detectable_effect(4 * n, runs, comparisons=m) <= delta
    assert minimum_detectable_effect(n, runs, comparisons=m + 1) >= delta
    assert 0 < delta <= 100


def test_the_minimum_detectable_effect_is_found_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    delta = minimum_detectable_effect(200, deviations=Deviations(items=30.0))
    found = sign_flip(rng.normal(delta, 30.0, (200, 600)), draws=999) < 0.05
    assert 0.75 < float(found.mean()) < 0.86
