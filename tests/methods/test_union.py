"""Experts of several tasks: what any of them selects, and ablations that count that union."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from esft_bench.methods.ablation import SelectionAblation
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.esft_union import EsftUnion
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.experts import selected_experts
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.selection import Selection
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.random_experts import RandomExperts
from esft_bench.methods.unrelated_experts import UnrelatedExperts
from tests.methods.helpers import profiled, tokens

Models = Callable[..., PreTrainedModel]
UNION = EsftUnion(score="token", p=0.3)


def two_tasks(model: PreTrainedModel) -> tuple[Profile, Profile]:
    """Profiles of two samples of text that select different experts."""
    ids = tokens(seed=7)[:, :3]
    return profiled(model), profile(model, [(ids, torch.ones_like(ids))])


def trained(model: PreTrainedModel, method: Method, one: Profile, two: Profile) -> Selection:
    """The experts that a method trains for both tasks together."""
    method.prepare(model, Context(seed=5, profile=one, further=(two,)))
    return {index: selected_experts(layer) for index, layer in moe_layers(model).items()}


@pytest.mark.parametrize("method", [UNION, EsftLora(score="token", p=0.3)], ids=["in full", "low-rank"])
def test_what_any_task_selects_is_trained_once(tiny_model: Models, method: EsftUnion | EsftLora) -> None:
    model = tiny_model("qwen2-moe")
    one, two = two_tasks(model)
    first, second = method.select(one), method.select(two)
    assert first != second
    chosen = trained(model, method, one, two)
    for layer, experts in chosen.items():
        assert len(experts) == len(set(experts))
        assert set(experts) == {*first[layer], *second[layer]}
        assert experts[: len(first[layer])] == first[layer]


@pytest.mark.parametrize("ablation", [RandomExperts(of=UNION), UnrelatedExperts(of=UNION)], ids=["random", "unrelated"])
def test_an_ablation_of_the_union_trains_as_many_experts(tiny_model: Models, ablation: SelectionAblation) -> None:
    assert ablation.together
    one, two = two_tasks(tiny_model("qwen2-moe"))
    union = trained(tiny_model("qwen2-moe"), UNION, one, two)
    others = trained(tiny_model("qwen2-moe"), ablation, one, two)
    assert {layer: len(experts) for layer, experts in others.items()} == {n: len(e) for n, e in union.items()}
    assert others != union


def test_the_least_used_experts_are_those_that_no_task_uses(tiny_model: Models) -> None:
    """Expert 0 is idle in one task alone, expert 2 in both."""
    one, two = two_tasks(tiny_model("mixtral"))
    layers = len(one.layers)
    row = lambda *counts: torch.tensor([[*counts, 9, 9, 9, 9, 9]]).double().expand(layers, -1)  # noqa: E731
    sums = replace(one, token_counts=row(0, 5, 0)), replace(two, token_counts=row(8, 5, 0))
    chosen = UnrelatedExperts(of=UNION).instead({key: [7] for key in one.layers}, sums, Context(0))
    assert chosen == {key: [2] for key in one.layers}
