"""DenseMixer's gradients beside a plain, dense transcription of its rule."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel

from esft_bench.methods.densemixer import DenseMixer
from esft_bench.methods.densemixer_lora import DenseMixerLora
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe import router_scores
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.recompute import checkpoint_gradients
from tests.methods.helpers import tokens

Models = Callable[..., PreTrainedModel]


def dense_block(block: Any, hidden: Tensor, normalised: bool) -> Tensor:
    """The rule as it is published, every expert on every token:

    y = sparse.detach() + dense − dense.detach(),  dense = Σ_e π_e · (E_e(x) where x is sent to e, else its value alone)
    """
    flat = hidden.view(-1, hidden.shape[-1])
    logits = F.linear(flat, block.gate.weight)
    probabilities = logits.softmax(-1, dtype=torch.float)
    chosen = probabilities.topk(block.gate.top_k, dim=-1).indices
    sent = torch.zeros_like(probabilities).scatter(1, chosen, 1.0)
    if normalised:
        probabilities = probabilities / (probabilities * sent).sum(1, keepdim=True)
    sparse = dense = torch.zeros_like(flat)
    for expert in range(block.experts.num_experts):
        gate, up = F.linear(flat, block.experts.gate_up_proj[expert]).chunk(2, dim=-1)
        output = F.linear(block.experts.act_fn(gate) * up, block.experts.down_proj[expert])
        own = sent[:, expert, None]
        output = output * own + output.detach() * (1 - own)
        dense = dense + probabilities[:, expert, None] * output
        sparse = sparse + probabilities[:, expert, None] * own * output
    return (sparse.detach() + dense - dense.detach()).view_as(hidden)


def gradients(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of every parameter."""
    ids = tokens()
    output = model(input_ids=ids, labels=ids)
    output.loss.backward()
    return output.logits.detach(), {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize(("architecture", "normalised"), [("olmoe", False), ("qwen3-moe", True)])
def test_gradients_are_those_of_the_dense_transcription(
    tiny_model: Models, monkeypatch: pytest.MonkeyPatch, architecture: str, normalised: bool
) -> None:
    model, reference = tiny_model(architecture), tiny_model(architecture)
    for each in (model, reference):
        for layer in moe_layers(each).values():
            each.get_submodule(layer.router).norm_topk_prob = normalised
    for layer in moe_layers(reference).values():
        block = reference.get_submodule(layer.name.rpartition(".")[0])
        monkeypatch.setattr(block, "forward", lambda hidden, block=block: dense_block(block, hidden, normalised))
    DenseMixer().prepare(model, Context(seed=0))
    logits, found = gradients(model)
    expected_logits, expected = gradients(reference)
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-5, name


def test_the_forward_pass_is_ffts_and_the_routers_gradient_is_not(tiny_model: Models) -> None:
    model, conventional = tiny_model("olmoe"), tiny_model("olmoe")
    DenseMixer().prepare(model, Context(seed=0))
    FullFineTuning().prepare(conventional, Context(seed=0))
    logits, found = gradients(model)
    expected_logits, expected = gradients(conventional)
    assert torch.equal(logits, expected_logits)
    routers = [name for name in expected if name.endswith("gate.weight")]
    assert routers
    assert all(not torch.allclose(found[name], expected[name], rtol=0.1) for name in routers)


def test_what_a_router_computes_is_found_out_in_its_first_step_alone(
    tiny_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    difference = router_scores._difference

    def counted(scores: Tensor, weights: Tensor) -> float:
        looks.append(difference(scores, weights))
        return looks[-1]

    monkeypatch.setattr(router_scores, "_difference", counted)
    model = tiny_model("olmoe")
    DenseMixer().prepare(model, Context(seed=0))
    _, first = gradients(model)
    assert looks
    looks.clear()
    first = {name: gradient.clone() for name, gradient in first.items()}
    model.zero_grad()
    _, second = gradients(model)
    assert not looks
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", [DenseMixer(), DenseMixerLora(rank=2, dropout=0.0)], ids=["full", "lora"])
def test_layers_that_are_computed_again_give_the_same_gradients(tiny_model: Models, method: Method) -> None:
    found = []
    for again in (False, True):
        model = tiny_model("deepseek-v2")
        method.prepare(model, Context(seed=0))
        if again:
            checkpoint_gradients(model)
        found.append(gradients(model.train())[1])
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_model_that_was_trained_is_let_go_of(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    DenseMixer().prepare(model, Context(0))
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    experts = weakref.ref(model.get_submodule("model.layers.0.mlp.experts"))
    del model
    gc.collect()
    assert experts() is None
