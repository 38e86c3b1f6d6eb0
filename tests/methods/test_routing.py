"""Measures of routing: the laws they keep, and cases worked by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.routing import (
    concentration,
    concentration_shares,
    consistency,
    cumulated_advantage,
    mean_and_deviation,
    over_cells,
    overlap,
    selected_counts,
    shift,
)
from esft_bench.methods.moe.routing_record import (
    concentration_of,
    experts_over_cells,
    overlaps_of,
    shifts_over_cells,
)
from esft_bench.methods.moe.scores import Scores
from esft_bench.spec.routing import SelectedExperts, Shift

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


def test_measures_by_hand() -> None:
    before, after = routed([4, 4, 2, 0]), routed([2, 4, 2, 2])
    torch.testing.assert_close(shift(before, after), torch.tensor([0.2]).double())
    assert shift(routed([5, 5, 0, 0]), routed([0, 0, 5, 5])).tolist() == [1]
    assert overlap(before, after, 2).tolist() == [2]  # experts 0 and 1; among 0, 2 and 3 of `after` the lower id
    assert overlap(before, after, 1).tolist() == [0]


def test_profiles_of_different_models_cannot_be_compared() -> None:
    one, other = routed([1, 2, 3]), routed([1, 2, 3, 4])
    for measure in (overlap, shift, consistency):
        with pytest.raises(MethodError, match=r"3 experts in layers \[0\], the other 4"):
            measure(one, other)
    with pytest.raises(MethodError, match=r"layers \[1\]"):
        shift(one, replace(one, layers=(1,)))
    with pytest.raises(MethodError, match="C-DAS@4"):
        cumulated_advantage(one, one, 4, "gate")


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=3))
def test_shares_of_a_layer_rise_ever_more_slowly_to_one(grid: list[list[float]]) -> None:
    scores = Scores(tuple(range(len(grid))), torch.tensor(grid, dtype=torch.float64))
    for curve, layer in zip(concentration_shares(scores), grid, strict=True):
        steps = torch.cat([curve[:1], curve.diff()])
        assert (steps >= -1e-12).all()
        assert (steps.diff() <= 1e-12).all()
        assert float(curve[-1]) == pytest.approx(1.0 if sum(layer) > 0 else 0.0)


def test_means_deviations_and_bands_by_hand() -> None:
    values = torch.tensor([[1.0, 4.0], [3.0, 4.0]], dtype=torch.float64)
    mean, deviation = mean_and_deviation(values)
    assert mean.tolist() == [2, 4]
    assert deviation.tolist() == pytest.approx([2**0.5, 0])
    assert mean_and_deviation(values[:1])[1].tolist() == [0, 0]
    assert [part.tolist() for part in over_cells(list(values))] == [[2, 4], [1, 4], [3, 4]]
    assert selected_counts({1: [3, 1], 4: [0]}, [1, 2, 4]).tolist() == [2, 0, 1]


def test_what_a_run_stores_is_what_the_measures_say() -> None:
    first, second = routed([8, 1, 1, 0], [4, 3, 2, 1]), routed([1, 8, 0, 1], [4, 3, 2, 1])
    stored = concentration_of("law", "Law", first, "token")
    assert stored.mean == pytest.approx([0.6, 0.8, 0.95, 1.0])
    assert stored.deviation == pytest.approx([2**0.5 * 0.2, 2**0.5 * 0.1, 2**0.5 * 0.05, 0])
    shared = {(one.first, one.second): one.shared for one in overlaps_of({"a": [first, first], "b": [second, second]})}
    expected = float(overlap(first, second).double().mean())
    assert shared == {("a", "a"): 2.0, ("a", "b"): expected, ("b", "a"): expected, ("b", "b"): 2.0}
    assert list(overlaps_of({"a": [first]})) == []


def test_what_rows_train_and_move_is_stored_over_their_cells() -> None:
    about = {"method": "gate", "method_title": "Gate", "seed": 0}
    chosen = [
        SelectedExperts(**about, task="law", experts={1: [0, 1], 2: [3]}),
        SelectedExperts(**about, task="math", experts={1: [0]}),
    ]
    whole, law, math = experts_over_cells(chosen, [1, 2])
    assert (whole.task, whole.mean, whole.low, whole.high) == ("", [1.5, 0.5], [1, 0], [2, 1])
    assert (law.task, law.mean, math.task, math.mean) == ("law", [2, 1], "math", [1, 0])
    moved = [
        Shift(**about, task=task, distance=[far, 0.0], consistency=[0.0, far], gate=[])
        for task, far in (("law", 0.5), ("math", 0.25))
    ]
    shifted, consistent = shifts_over_cells(moved)
    assert (shifted.quantity, shifted.mean, shifted.low, shifted.high) == ("shift", [0.375, 0], [0.25, 0], [0.5, 0])
    assert (consistent.quantity, consistent.mean) == ("consistency", [0, 0.375])
    unknown = [one.model_copy(update={"consistency": None}) for one in moved]
    assert [one.quantity for one in shifts_over_cells(unknown)] == ["shift"]
