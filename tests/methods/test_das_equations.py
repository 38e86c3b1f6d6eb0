"""The expert-concentration paper's equations, each against a straight transcription of its formula."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.das_experts import DasExperts
from esft_bench.methods.method import Context
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.router_scores import SeenRouter
from esft_bench.methods.moe.routing import consistency, cumulated_advantage
from esft_bench.methods.moe.scores import domain_advantage, expert_scores
from esft_bench.methods.moe.selection import highest_of_all, lowest_of_all
from esft_bench.methods.moe.view import moe_layers
from tests.methods.helpers import profiled, tokens

Models = Callable[..., PreTrainedModel]
L, E, T = 3, 8, 50


def scores_of_tokens(seed: int) -> Tensor:
    """Routing scores g[layer, token, expert], a softmax each."""
    logits = torch.randn(L, T, E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (logits + torch.arange(E) * seed / 10).softmax(-1)


def profile_of(g: Tensor, top_k: int = 2) -> Profile:
    """What a profile would hold of them."""
    zeros, sums = torch.zeros(L, E, dtype=torch.float64), g.sum(1)
    return Profile((1, 2, 5), top_k, T, 1, zeros, zeros, zeros, zeros, router_sums=sums, norm_sums=zeros)


def das(domain: Tensor, general: Tensor) -> list[list[float]]:
    """Equation 1, as it is printed, by layer and expert."""
    return [
        [sum(float(g) for g in domain[i, :, j]) / T - sum(float(g) for g in general[i, :, j]) / T for j in range(E)]
        for i in range(L)
    ]


def test_equation_1_is_the_difference_of_average_routing_scores() -> None:
    domain, general = scores_of_tokens(1), scores_of_tokens(2)
    expected = torch.tensor(das(domain, general), dtype=torch.float64)
    torch.testing.assert_close(domain_advantage(profile_of(domain), profile_of(general)).values, expected)


@pytest.mark.parametrize("k", [1, 3, E])
def test_equation_2_is_the_clamped_share_of_the_top_k_summed_over_layers(k: int) -> None:
    domain, general = scores_of_tokens(1), scores_of_tokens(2)
    expected = 0.0
    for row in das(domain, general):
        top = sorted(range(E), key=lambda j: -row[j])[:k]
        expected += sum(max(row[j], 0) for j in top) / sum(max(row[j], 0) for j in range(E))
    found = cumulated_advantage(profile_of(domain), profile_of(general), k)
    assert float(found.sum()) == pytest.approx(expected, abs=1e-12)


def test_without_any_advantage_equation_2_is_zero() -> None:
    assert not cumulated_advantage(profile_of(scores_of_tokens(1)), profile_of(scores_of_tokens(1)), 3).any()


@pytest.mark.parametrize("architecture", ["deepseek-v2", "qwen2-moe", "mixtral", "granite-moe", "gpt-oss"])
def test_equation_3_is_the_whole_softmax_of_the_routers_logits(tiny_model: Models, architecture: str) -> None:
    """Also where the router itself takes a softmax of the chosen logits only."""
    model = tiny_model(architecture)
    layer = moe_layers(model)[1]
    logits: list[Tensor] = []
    router = model.get_submodule(str(layer.router))
    with router.register_forward_hook(lambda module, args, out: logits.append(_linear(module, args[0]))):
        seen = profiled(model)
    expected = logits[0].double().softmax(-1).mean(0)
    torch.testing.assert_close(expert_scores(seen, "router").values[seen.layers.index(1)], expected, atol=1e-6, rtol=0)


def test_of_a_router_that_is_no_softmax_its_own_scores_are_taken(tiny_model: Models) -> None:
    model = tiny_model("deepseek-v3")
    layer = moe_layers(model)[1]
    logits: list[Tensor] = []
    router = model.get_submodule(str(layer.router))
    with router.register_forward_hook(lambda module, args, out: logits.append(_linear(module, args[0]))):
        seen = profiled(model)
    expected = logits[0].double().sigmoid().mean(0)
    torch.testing.assert_close(expert_scores(seen, "router").values[seen.layers.index(1)], expected, atol=1e-6, rtol=0)


def test_a_router_whose_weights_nothing_explains_has_no_scores(tiny_model: Models) -> None:
    router = SeenRouter(moe_layers(tiny_model("olmoe"))[1])
    router.output = (torch.randn(4, 8),)
    index = torch.tensor([[0, 1, 2]] * 4)
    assert router.scores(index, torch.tensor([[0.9, 0.05, 0.05]] * 4)) is None


def _linear(router: torch.nn.Module, hidden: Tensor) -> Tensor:
    """A router's logits [T, E], from its own weights."""
    bias = dict(router.named_parameters()).get("bias")
    weight = router.get_parameter("weight")
    return torch.nn.functional.linear(hidden.reshape(-1, weight.shape[1]).float(), weight.float(), bias)


def test_equations_4_and_5_are_the_mean_squared_change_of_average_routing_scores() -> None:
    before, after = scores_of_tokens(1).mean(1), scores_of_tokens(2).mean(1)
    shifts = [[(float(after[i, j]) - float(before[i, j])) ** 2 for j in range(E)] for i in range(L)]
    expected = sum(sum(row) for row in shifts) / (L * E)
    found = consistency(profile_of(scores_of_tokens(1)), profile_of(scores_of_tokens(2)))
    assert float(found.mean()) == pytest.approx(expected, abs=1e-12)


def test_stage_2_ranks_all_experts_of_the_model_together() -> None:
    table = domain_advantage(profile_of(scores_of_tokens(1)), profile_of(scores_of_tokens(2)))
    every = sorted(
        (
            (float(v), layer, e)
            for layer, row in zip(table.layers, table.values, strict=True)
            for e, v in enumerate(row)
        ),
        key=lambda each: -each[0],
    )
    for taken, expected in ((highest_of_all(table, 7), every[:7]), (lowest_of_all(table, 7), every[::-1][:7])):
        assert {(layer, e) for layer, ids in taken.items() for e in ids} == {(layer, e) for _, layer, e in expected}
        assert set(taken) == set(table.layers)


def test_the_product_of_score_and_norm_is_a_mean_of_products(tiny_model: Models) -> None:
    model = tiny_model("qwen2-moe")
    layer = moe_layers(model)[1]
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    with layer.experts.register_forward_pre_hook(lambda _, args: calls.append(args)):
        seen = profiled(model)
    hidden, index, weights = calls[0]
    products = torch.zeros(layer.num_experts, dtype=torch.float64)
    with torch.no_grad():
        for token, (chosen, gates) in enumerate(zip(index, weights, strict=True)):
            for expert, gate in zip(chosen, gates, strict=True):
                alone = layer.experts(hidden[token : token + 1], expert.view(1, 1), torch.ones(1, 1))
                products[expert] += float(gate) * float(alone.norm()) / len(index)
    found = expert_scores(seen, "score_norm").values[seen.layers.index(1)]
    torch.testing.assert_close(found, products / products.sum(), atol=1e-6, rtol=1e-5)
    pooled = expert_scores(seen, "score_norm", "pooled").values[seen.layers.index(1)]
    torch.testing.assert_close(pooled, products, atol=1e-6, rtol=1e-5)


def test_domain_advantage_before_training_selects_the_highest_or_the_lowest(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    other = tokens(seed=7)
    general = profile(model, [(other, torch.ones_like(other))])
    context = Context(0, profiled(model), general)
    advantage = domain_advantage(profiled(model), general)
    for lowest, choose in ((False, highest_of_all), (True, lowest_of_all)):
        assert DasExperts(count=4, lowest=lowest).choice(context)(profiled(model)) == choose(advantage, 4)
