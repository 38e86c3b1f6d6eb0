"""The ESFT paper's equations, each against a straight transcription of its formula on random tensors.

Equations 4 and 5 are Equations 1 and 2 with mN experts of which mK are taken: the same code and the same test.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.moe.experts import use_selective_experts
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.scores import expert_scores
from esft_bench.methods.moe.selection import select
from esft_bench.methods.moe.view import moe_layers
from tests.methods.helpers import tokens
from tests.methods.test_profile import padded

Models = Callable[..., PreTrainedModel]
FINE = {"n_routed_experts": 16, "num_experts_per_tok": 6}
"""Twice as many experts as the tests' models have, and twice as many taken: m = 2."""


def affinities(u: Tensor, e: Tensor) -> list[float]:
    """Equation 3: s_i = Softmax_i(u · e_i) of one token u [H] and the centroids e [N, H]."""
    powers = [torch.exp(u @ centroid).item() for centroid in e]
    return [power / sum(powers) for power in powers]


def gates(s: list[float], k: int) -> list[float]:
    """Equation 2: g_i = s_i where it is among the K highest, else 0."""
    kept = sorted(s, reverse=True)[:k]
    return [value if value in kept else 0.0 for value in s]


def ffn(layer: torch.nn.Module, i: int, u: Tensor) -> Tensor:
    """FFN_i: the gated network of expert i."""
    gate, up = (layer.get_parameter("gate_up_proj")[i].double() @ u).chunk(2)
    return layer.get_parameter("down_proj")[i].double() @ (torch.nn.functional.silu(gate) * up)


def seen_by(model: PreTrainedModel, samples: list[Tensor]) -> tuple[Profile, list[Tensor], Tensor]:
    """The profile of samples of unequal length, what the first router got of each token, and its centroids."""
    layer = next(iter(moe_layers(model).values()))
    router = model.get_submodule(str(layer.router))
    inputs: list[Tensor] = []
    with router.register_forward_hook(lambda module, args, out: inputs.append(args[0].double().flatten(0, -2))):
        found = profile(model, [padded([sample], left=False) for sample in samples])
    return found, inputs, router.weight.detach().double()


@pytest.fixture
def samples() -> list[Tensor]:
    return [row[:length] for row, length in zip(tokens(4, 16), (3, 16, 9, 1), strict=True)]


@pytest.mark.parametrize("changes", [{}, FINE], ids=["equations 1 to 3", "equations 4 and 5"])
@torch.no_grad()
def test_the_output_of_a_layer_is_the_gated_sum_of_its_experts(tiny_model: Models, changes: dict[str, int]) -> None:
    """Equations 1 and 4; u, the residual, is added by the block, and shared experts beside the routed ones."""
    model = tiny_model("deepseek-v2", **changes)
    layers = moe_layers(model)
    number, layer = next(iter(layers.items()))
    router = model.get_submodule(str(layer.router))
    use_selective_experts(model, {number: [1, 4]})
    seen: list[tuple[Tensor, Tensor]] = []
    centroids: list[Tensor] = []
    with layer.experts.register_forward_hook(lambda module, args, out: seen.append((args[0].double(), out.double()))):
        with router.register_forward_hook(lambda module, args, out: centroids.append(module.weight.double())):
            model(tokens(1, 5))
    hidden, out = seen[0]
    scale = getattr(model.config, "routed_scaling_factor", 1.0)
    for u, h in zip(hidden.reshape(5, -1), out.reshape(5, -1), strict=True):
        g = gates(affinities(u, centroids[0]), layer.top_k)
        expected = sum(scale * g[i] * ffn(layer.experts, i, u) for i in range(layer.num_experts) if g[i])
        torch.testing.assert_close(h, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_equation_6_averages_gates_in_each_sample_and_then_over_samples(
    tiny_model: Models, samples: list[Tensor]
) -> None:
    found, inputs, e = seen_by(tiny_model("deepseek-v2"), samples)
    expected = torch.zeros(len(e), dtype=torch.float64)
    for sample in inputs:
        for u in sample:
            expected += (
                torch.tensor(gates(affinities(u, e), found.top_k), dtype=torch.float64) / len(sample) / len(inputs)
            )
    torch.testing.assert_close(expert_scores(found, "gate", "paper").values[0], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_equation_7_averages_choices_in_each_sample_and_then_over_samples(
    tiny_model: Models, samples: list[Tensor]
) -> None:
    found, inputs, e = seen_by(tiny_model("deepseek-v2"), samples)
    expected = torch.zeros(len(e), dtype=torch.float64)
    for sample in inputs:
        for u in sample:
            chosen = [float(g > 0) / found.top_k for g in gates(affinities(u, e), found.top_k)]
            expected += torch.tensor(chosen, dtype=torch.float64) / len(sample) / len(inputs)
    torch.testing.assert_close(expert_scores(found, "token", "paper").values[0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 1.0])
def test_equation_8_selects_the_fewest_experts_whose_scores_reach_p(
    tiny_model: Models, samples: list[Tensor], p: float
) -> None:
    scores = expert_scores(seen_by(tiny_model("deepseek-v2"), samples)[0], "token", "paper")
    for layer, row in zip(scores.layers, scores.values.tolist(), strict=True):
        chosen, total = [], 0.0
        for expert in sorted(range(len(row)), key=lambda i: (-row[i], i)):
            if total >= p - 1e-9 or not row[expert]:
                break
            chosen.append(expert)
            total += row[expert]
        assert total >= p - 1e-9
        assert select(scores, p)[layer] == chosen
