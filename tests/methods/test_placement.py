"""Who holds which experts: as many each, and selected ones spread evenly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.placement import place


@st.composite
def _asked(draw: st.DrawFn) -> tuple[dict[int, list[int]], dict[int, int], int]:
    """A selection of some of the layers' experts, how many there are, and among how many processes."""
    processes = draw(st.integers(1, 6))
    experts = {layer: processes * draw(st.integers(1, 5)) for layer in range(draw(st.integers(1, 8)))}
    chosen = {layer: draw(st.permutations(range(count))) for layer, count in experts.items()}
    selection = {layer: ids[: draw(st.integers(0, len(ids)))] for layer, ids in chosen.items()}
    return {layer: ids for layer, ids in selection.items() if ids}, experts, processes


@given(_asked())
def test_every_expert_has_one_place_and_selected_ones_differ_by_one_at_most(
    asked: tuple[dict[int, list[int]], dict[int, int], int],
) -> None:
    selection, experts, processes = asked
    placed = place(selection, experts, processes)
    totals = [0] * processes
    for layer, count in experts.items():
        assert sorted(expert for own in placed[layer] for expert in own) == list(range(count))
        assert {len(own) for own in placed[layer]} == {count // processes}
        chosen = selection.get(layer, [])
        trains = [[expert for expert in own if expert in chosen] for own in placed[layer]]
        assert all(own[: len(first)] == first for own, first in zip(placed[layer], trains, strict=True))
        assert all(first == sorted(first, key=chosen.index) for first in trains)
        assert max(map(len, trains)) - min(map(len, trains)) <= 1
        totals = [total + len(first) for total, first in zip(totals, trains, strict=True)]
        assert max(totals) - min(totals) <= 1
        assert totals[0] == max(totals)  # what an estimate counts on


def test_the_best_experts_are_on_processes_of_their_own() -> None:
    placed = place({3: [7, 1, 4, 0]}, {3: 8}, 4)[3]
    assert [own[0] for own in placed] == [7, 1, 4, 0]


def test_processes_that_do_not_divide_the_experts_are_told_which_do() -> None:
    with pytest.raises(
        MethodError,
        match=r"^8 experts of a layer cannot be shared out evenly among 3 processes; set it to one of 2, 4, 8$",
    ):
        place({}, {0: 8}, 3)
