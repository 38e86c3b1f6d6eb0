"""Selections: the laws they keep, and ablations that have their counts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.method import Context
from esft_bench.methods.moe.scores import Scores, expert_scores
from esft_bench.methods.moe.selection import check, draw, highest, lowest, select
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.random_experts import RandomExperts
from esft_bench.methods.top_k_experts import TopKExperts
from esft_bench.methods.unrelated_experts import UnrelatedExperts
from tests.methods.helpers import (
    Outcome,
    profiled,
    tensors,
)

Checkpoints = Callable[[str], Path]
Models = Callable[..., PreTrainedModel]


rows = st.lists(st.integers(0, 10_000), min_size=1, max_size=64).map(lambda row: [v / 10_000 for v in row])
thresholds = st.integers(1, 100).map(lambda percent: percent / 100)


def one_layer(row: list[float]) -> Scores:
    return Scores((0,), torch.tensor([row], dtype=torch.float64))


@given(rows, thresholds)
def test_the_selection_reaches_p_and_no_expert_of_it_can_be_spared(row: list[float], p: float) -> None:
    chosen = select(one_layer(row), p)[0]
    total = math.fsum(row[expert] for expert in chosen)
    assert len(set(chosen)) == len(chosen)
    assert total >= p - 1e-6 or len(chosen) == sum(value > 0 for value in row)
    if chosen:
        assert total - row[chosen[-1]] < p


@given(rows, thresholds)
def test_the_selection_is_ordered_by_score_then_by_id_and_leaves_out_nothing_better(row: list[float], p: float) -> None:
    chosen = select(one_layer(row), p)[0]
    keys = [(-row[expert], expert) for expert in chosen]
    assert keys == sorted(keys)
    left = [(-value, expert) for expert, value in enumerate(row) if expert not in chosen]
    assert not keys or not left or max(keys) < min(left)


@given(rows, thresholds, thresholds)
def test_a_higher_threshold_only_adds_experts(row: list[float], p: float, q: float) -> None:
    low, high = (select(one_layer(row), value)[0] for value in sorted((p, q)))
    assert high[: len(low)] == low


@given(
    st.dictionaries(st.integers(0, 60), st.integers(0, 8).map(lambda count: list(range(count))), min_size=1),
    st.integers(0, 2**32),
)
def test_a_draw_has_the_counts_of_the_selection_and_distinct_known_experts(
    selection: dict[int, list[int]], seed: int
) -> None:
    drawn = draw(selection, 8, seed)
    assert drawn == draw(selection, 8, seed)
    for layer, chosen in selection.items():
        assert len(set(drawn[layer])) == len(drawn[layer]) == len(chosen)
        assert set(drawn[layer]) <= set(range(8))


def test_a_draw_prefers_no_expert() -> None:
    counts = torch.zeros(8)
    for seed in range(2000):
        counts[draw({0: [0, 1]}, 8, seed)[0]] += 1
    assert (counts - 500).abs().max() < 100  # five standard deviations


@given(rows, st.data())
def test_the_highest_and_the_lowest_experts_are_disjoint_parts_of_one_order(
    row: list[float], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(row)))
    best = highest(one_layer(row), count)[0]
    worst = lowest(one_layer(row), {0: len(row) - count})[0]
    assert len(best) == count
    assert [*best, *reversed(worst)] == highest(one_layer(row), len(row))[0]
    assert not best or not worst or min(row[expert] for expert in best) >= max(row[expert] for expert in worst)


@given(rows, thresholds)
def test_a_selection_by_threshold_starts_the_order_of_the_highest(row: list[float], p: float) -> None:
    chosen = select(one_layer(row), p)
    assert highest(one_layer(row), len(chosen[0])) == chosen


def test_unrelated_experts_have_the_counts_of_the_selection_and_its_lowest_scores(tiny_model: Models) -> None:
    seen = profiled(tiny_model("deepseek-v2"))
    of = EsftToken(p=0.3)
    scores = expert_scores(seen, "token")
    unrelated = UnrelatedExperts(of=of).select(seen, Context(1))
    assert unrelated == UnrelatedExperts(of=of).select(seen, Context(2))
    for row, (layer, chosen) in zip(scores.values, of.select(seen).items(), strict=True):
        assert len(unrelated[layer]) == len(chosen) <= 4
        assert not set(unrelated[layer]) & set(chosen)
        assert row[unrelated[layer]].tolist() == row.sort().values[: len(chosen)].tolist()


def test_more_experts_than_a_layer_has_are_refused(tiny_model: Models) -> None:
    model = tiny_model("deepseek-v2")
    with pytest.raises(MethodError, match="layer 1 has 8 experts, 9 are asked for"):
        TopKExperts(count=9).prepare(model, Context(seed=0, profile=profiled(model)))
    with pytest.raises(MethodError, match="layer 1 has 8 experts, 9 are asked for"):
        TopKExperts(count=9).check_model(model)
    with pytest.raises(ValidationError):
        TopKExperts(count=0)


@pytest.mark.parametrize("p", [0, -0.1, 1.01, math.nan])
def test_a_threshold_outside_its_range_is_refused(p: float) -> None:
    with pytest.raises(MethodError, match="p is"):
        select(one_layer([1.0]), p)
    with pytest.raises(ValidationError):
        EsftToken(p=p)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_a_score_that_is_no_score_is_refused_by_name(value: float) -> None:
    for choose in (lambda scores: select(scores, 0.2), lambda scores: highest(scores, 1), lambda s: lowest(s, {0: 1})):
        with pytest.raises(MethodError, match="expert 1 in layer 0"):
            choose(one_layer([0.5, value]))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({9: [0]}, "names layer 9; the model's MoE layers are 1, 2"),
        ({1: [8]}, "expert 8 in layer 1"),
        ({1: [-1]}, "expert -1 in layer 1"),
        ({1: [3, 3]}, "layer 1 twice"),
        ({1: [], 2: []}, "empty"),
        ({}, "empty"),
    ],
)
def test_a_selection_that_does_not_fit_the_model_is_refused_by_name(
    tiny_model: Models, selection: dict[int, list[int]], message: str
) -> None:
    with pytest.raises(MethodError, match=message):
        check(selection, moe_layers(tiny_model("deepseek-v2")))


def test_random_experts_are_as_many_as_selected_and_others_for_another_seed(tiny_model: Any) -> None:
    seen = profiled(tiny_model("deepseek-v2"))
    of = EsftToken(p=0.5)
    method = RandomExperts(of=of)
    counts = {layer: len(ids) for layer, ids in of.select(seen).items()}
    draws = [method.select(seen, Context(seed)) for seed in (1, 1, 2, 3)]
    assert all({layer: len(ids) for layer, ids in drawn.items()} == counts for drawn in draws)
    assert draws[0] == draws[1]
    assert len({str(drawn) for drawn in draws}) > 1


def test_random_experts_read_the_settings_of_a_suite(tiny_checkpoint: Checkpoints) -> None:
    method = RandomExperts.model_validate({"of": {"method": "esft-gate", "p": 0.3, "shared_experts": True}})
    assert method.of == EsftGate(p=0.3, shared_experts=True)
    assert RandomExperts.model_validate(method.model_dump(mode="json")) == method
    outcome = Outcome(method, tiny_checkpoint("deepseek-v2"))
    assert outcome.changed() == set(tensors(outcome.adapter))
    with pytest.raises(ValueError, match="fft"):
        RandomExperts.model_validate({"of": {"method": "fft"}})
