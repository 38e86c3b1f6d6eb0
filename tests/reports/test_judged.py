"""How far a judge can be trusted: agreement, its scores on another's scale, and what the report says of both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.reports.prose.judged import opinions_in_words
from esft_bench.reports.statistics.agreement import agreement, debiased
from esft_bench.spec.opinions import Kind, Opinions

PAIRS = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=30)


def alpha_by_hand(pairs: list[tuple[int, int]]) -> float:
    """Krippendorff's alpha for two coders: 1 − mean squared difference within units over that between all values."""
    values = np.array(pairs, dtype=float).ravel()
    within = np.mean([(a - b) ** 2 for a, b in pairs])
    n = len(values)
    between = sum((a - b) ** 2 for a in values for b in values) / (n * (n - 1))
    return float(1 - within / between)


@given(PAIRS)
def test_alpha_is_one_minus_disagreement_within_over_disagreement_between(pairs: list[tuple[int, int]]) -> None:
    found = agreement(pairs)
    if len({value for pair in pairs for value in pair}) == 1:
        assert found.alpha is None
    else:
        assert found.alpha == pytest.approx(alpha_by_hand(pairs))


@given(PAIRS)
def test_a_judge_agrees_wholly_with_itself(pairs: list[tuple[int, int]]) -> None:
    found = agreement([(a, a) for a, _ in pairs])
    assert found.difference == found.absolute == 0
    assert found.alpha in (None, pytest.approx(1.0))


def test_a_cheap_judge_that_is_too_kind_by_a_constant_is_put_right_and_covered_as_promised() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        wanted = random.normal(60, 20, size=130)
        cheap = wanted + 8 + random.normal(0, 10, size=130)
        errors = wanted[:50] - cheap[:50]  # both judges scored these
        found = debiased(list(cheap[50:]), float(errors.mean()), float(errors.std(ddof=1) / np.sqrt(50)))
        covered += found.low <= 60 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_what_is_not_known_of_the_cheap_judge_widens_the_interval() -> None:
    scores = [50.0, 60.0, 70.0, 80.0]
    sure, unsure = debiased(scores, -5.0, 0.0), debiased(scores, -5.0, 4.0)
    assert sure.estimate == unsure.estimate == 60.0
    own = np.std(scores, ddof=1) / 2
    assert sure.high - sure.low == pytest.approx(2 * 1.959964 * own)
    assert unsure.high - unsure.low == pytest.approx(2 * 1.959964 * np.hypot(own, 4.0))


def opinions(kind: Kind, scores: list[tuple[str, float, float]], asked: int | None = None) -> Opinions:
    return Opinions(
        **{"method": "esft-gate", "task": "law", "seed": 0, "benchmark": "law", "benchmark_title": "Law"},
        **{"kind": kind, "judge": "kind-judge", "beside": "stern-judge", "scores": scores},
        asked=len(scores) if asked is None else asked,
    )


def test_two_judges_are_set_side_by_side_over_all_answers() -> None:
    said = opinions_in_words(
        [opinions("second", [("0", 10, 20), ("1", 50, 60)], asked=3), opinions("second", [("0", 90, 100)])]
    )
    assert len(said) == 1
    assert "kind-judge and stern-judge on 3 answers (1 more without a score)" in said[0]
    assert "Spearman 1.00" in said[0]
    assert "mean difference +10.0 points" in said[0]


def test_a_probe_says_how_far_the_scores_moved_and_how_sure_that_is() -> None:
    [said] = opinions_in_words([opinions("verbosity", [("0", 50, 60), ("1", 50, 50), ("2", 50, 70), ("3", 50, 50)])])
    assert "shown the answer twice over" in said
    assert "gives 2 of 4 answers another score" in said
    assert "+7.5 points on average [" in said


def test_a_judge_that_scored_nothing_is_said_to_have() -> None:
    [said] = opinions_in_words([opinions("order", [], asked=4)])
    assert said == "Law: kind-judge was asked about 4 answers and scored none of them."
