"""Measures of routing: the laws they keep, and cases worked by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.routing import concentration, cumulated_advantage, overlap, shift
from esft_bench.methods.moe.scores import Scores, expert_scores

counts = st.lists(st.integers(1, 1000), min_size=6, max_size=6)


def routed(*rows: list[int]) -> Profile:
    """A profile of top-2 routing with these token counts in each layer; gates are in proportion."""
    tokens = torch.tensor(rows, dtype=torch.float64)
    shares = tokens / tokens.sum(1, keepdim=True)
    return Profile(tuple(range(len(rows))), 2, 1000, 1, tokens, 1000 * shares, shares, shares)


@given(counts)
def test_the_concentration_curve_rises_ever_slower_to_the_sum_of_all_scores(row: list[int]) -> None:
    scores = Scores((0,), torch.tensor([row], dtype=torch.float64))
    curve = concentration(scores)[0]
    steps = torch.cat([curve[:1], curve.diff()])
    assert curve[-1] == sum(row)
    assert (steps.diff() <= 0).all()
    assert (steps > 0).all()


@given(counts, counts)
def test_overlap_and_shift_are_symmetric_and_know_what_is_the_same(first: list[int], second: list[int]) -> None:
    one, other = routed(first, second), routed(second, first)
    assert overlap(one, one).tolist() == [2, 2]
    assert torch.equal(overlap(one, other), overlap(other, one))
    assert not shift(one, one).any()
    assert torch.equal(shift(one, other), shift(other, one))
    assert ((shift(one, other) >= 0) & (shift(one, other) <= 1)).all()


@given(counts, counts, st.integers(1, 6))
def test_the_cumulated_advantage_is_that_of_the_best_experts(domain: list[int], general: list[int], k: int) -> None:
    of, over = routed(domain), routed(general)
    difference = (expert_scores(of, "gate", "paper").values - expert_scores(over, "gate", "paper").values)[0]
    expected = sum(sorted(difference.tolist(), reverse=True)[:k])
    assert float(cumulated_advantage(of, over, k)) == pytest.approx(expected, abs=1e-12)
    assert not cumulated_advantage(of, of, k).any()


def test_measures_by_hand() -> None:
    before, after = routed([4, 4, 2, 0]), routed([2, 4, 2, 2])
    torch.testing.assert_close(shift(before, after), torch.tensor([0.2]).double())
    assert shift(routed([5, 5, 0, 0]), routed([0, 0, 5, 5])).tolist() == [1]
    assert overlap(before, after, 2).tolist() == [2]  # experts 0 and 1; among 0, 2 and 3 of `after` the lower id
    assert overlap(before, after, 1).tolist() == [0]
    torch.testing.assert_close(cumulated_advantage(after, before, 1), torch.tensor([0.2]).double())


def test_profiles_of_different_models_cannot_be_compared() -> None:
    one, other = routed([1, 2, 3]), routed([1, 2, 3, 4])
    for measure in (overlap, shift):
        with pytest.raises(MethodError, match=r"3 experts in layers \[0\], the other 4"):
            measure(one, other)
    with pytest.raises(MethodError, match=r"layers \[1\]"):
        shift(one, replace(one, layers=(1,)))
    with pytest.raises(MethodError, match="C-DAS@4"):
        cumulated_advantage(one, one, 4)
