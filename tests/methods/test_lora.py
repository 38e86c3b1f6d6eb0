"""LoRA by peft: what it changes, what it leaves alone, and adapters that plain peft reads."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context
from esft_bench.methods.moe.view import moe_layers
from tests.methods.conftest import Outcomes
from tests.methods.helpers import (
    MOE,
    PARTS,
    Outcome,
    backward,
    load,
    logits,
    pieces,
    tensors,
    tensors_of_experts,
    tensors_of_routers,
)

Checkpoints = Callable[[str], Path]
Models = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("architecture", MOE)
def test_lora_on_experts_changes_every_expert_and_no_router(outcomes: Outcomes, architecture: str) -> None:
    """LoRA has no update of biases."""
    outcome = outcomes(architecture, "lora-experts")
    changed, names = outcome.changed(), set(pieces(outcome.base))
    every = {layer: range(8) for layer in moe_layers(load(outcome.base))}
    routed = tensors_of_experts(names, every)
    assert len(routed) == PARTS.get(architecture, 3) * 8 * len(every)
    shared = {name for name in names if "shared_expert" in name and "shared_expert_gate" not in name}
    assert bool(shared) == (architecture in {"deepseek-v2", "deepseek-v3", "qwen2-moe"})
    attention = {name for name in names if ".self_attn." in name and name.endswith("_proj.weight")}
    assert {name for name in routed if "_bias" not in name} | shared | attention <= changed
    dense = {name for name in names if ".layers.0.mlp." in name and 0 not in every}
    assert bool(dense) == architecture.startswith("deepseek")
    assert dense <= changed
    routers = tensors_of_routers(names) | {name for name in names if "shared_expert_gate" in name}
    assert len(routers) >= len(every)
    assert not routers & changed


@pytest.mark.parametrize("architecture", MOE)
def test_split_updates_give_the_logits_and_gradients_of_pefts_own_form(tiny_model: Models, architecture: str) -> None:
    """Other implementations of the experts know no updates, so on them peft's own forward runs."""
    model = tiny_model(architecture)
    parameters = Lora(rank=3, experts=True).prepare(model, Context(seed=0))
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    found = (logits(model), gradients(model, parameters))
    model.set_experts_implementation("grouped_mm")
    expected = (logits(model), gradients(model, parameters))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert all(gradient.abs().max() > 0 for gradient in expected[1])


def gradients(model: PreTrainedModel, parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    model.zero_grad(set_to_none=True)
    backward(model)
    return [parameter.grad.clone() for parameter in parameters]


def test_no_product_of_the_factors_is_made(tiny_model: Models) -> None:
    """Nothing of a fused parameter's size is computed, in the forward or the backward pass."""
    model = tiny_model("olmoe")
    sizes = {layer.experts.get_parameter(kind).shape for layer in moe_layers(model).values() for kind in layer.weights}
    Lora(rank=2, experts=True).prepare(model, Context(seed=0))

    class Watch(TorchDispatchMode):
        """Remembers the shapes of all results."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if not func.is_view:
                tree_map_only(torch.Tensor, lambda tensor: made.add(tensor.shape), out)
            return out

    made: set[torch.Size] = set()
    with Watch():
        backward(model)
    assert made
    assert not {*sizes, *(torch.Size([size[0], size[2], size[1]]) for size in sizes)} & made


@pytest.mark.parametrize("architecture", ["olmoe", "gpt-oss"])
def test_an_adapter_that_is_turned_off_adds_nothing(tiny_model: Models, architecture: str) -> None:
    model = tiny_model(architecture)
    expected = logits(model)
    for parameter in Lora(rank=2, experts=True).prepare(model, Context(seed=0)):
        parameter.data.fill_(0.1)
    assert not torch.allclose(logits(model), expected, atol=1e-2)
    model.disable_adapters()
    torch.testing.assert_close(logits(model), expected)


@pytest.mark.parametrize("architecture", MOE)
def test_lora_on_experts_loads_in_plain_peft(outcomes: Outcomes, architecture: str) -> None:
    outcome = outcomes(architecture, "lora-experts")
    plain = PeftModel.from_pretrained(load(outcome.base), outcome.adapter).eval()
    torch.testing.assert_close(logits(plain), outcome.logits, atol=1e-5, rtol=1e-5)


def test_lora_on_attention_changes_attention_alone_and_loads_in_plain_peft(tiny_checkpoint: Checkpoints) -> None:
    outcome = Outcome(Lora(rank=2), tiny_checkpoint("deepseek-v2"))
    changed = outcome.changed()
    assert changed == {name for name in tensors(outcome.base) if ".self_attn." in name and "norm" not in name}
    plain = PeftModel.from_pretrained(load(outcome.base), outcome.adapter).eval()
    torch.testing.assert_close(logits(plain), logits(outcome.model))


def test_lora_starts_as_the_base_and_from_the_seed(tiny_checkpoint: Checkpoints) -> None:
    base = tiny_checkpoint("olmoe")
    models = [load(base) for _ in range(3)]
    started = [
        [p.detach().clone() for p in Lora().prepare(model, Context(seed=seed))]
        for model, seed in zip(models, (1, 1, 2), strict=True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(started[0], started[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(started[0], started[2], strict=True))
    torch.testing.assert_close(logits(models[0]), logits(load(base)))


def test_lora_on_experts_is_refused_for_a_dense_model(tiny_model: Any) -> None:
    with pytest.raises(MethodError, match="not a mixture-of-experts model"):
        Lora(experts=True).prepare(tiny_model("dense"), Context(seed=0))


def test_a_lora_adapters_configuration_is_the_same_text_in_every_process(tiny_model, tmp_path):
    # peft keeps targets as sets: unsorted, the adapter's digest, and every key after it, would change by chance
    model = tiny_model("deepseek-v2")
    method = Lora(rank=2, experts=True)
    method.prepare(model, Context(seed=0))
    method.export(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert len(config["target_modules"]) > 1
    assert config["target_modules"] == sorted(config["target_modules"])


@pytest.mark.parametrize("architecture", MOE)
def test_a_divided_rank_is_that_of_the_experts_a_token_meets_together(
    tiny_checkpoint: Checkpoints, architecture: str
) -> None:
    method = Lora(rank=7, alpha=4, experts=True, divide_rank=True)
    outcome = Outcome(method, tiny_checkpoint(architecture))
    layers = moe_layers(outcome.model)
    for layer in layers.values():
        share = round(7 / layer.top_k)
        wrapper = outcome.model.get_submodule(layer.name.removesuffix(".base_layer.base_layer"))
        while hasattr(wrapper, "base_layer"):
            assert wrapper.r == {"default": share}
            assert wrapper.scaling == {"default": 4 / share}
            assert len(wrapper.lora_A["default"].weight) == share * layer.num_experts
            wrapper = wrapper.base_layer
    attention = [module for name, module in outcome.model.named_modules() if "attn" in name and hasattr(module, "r")]
    assert attention
    assert all(module.r == {"default": 7} for module in attention)
    plain = PeftModel.from_pretrained(load(outcome.base), outcome.adapter).eval()
    torch.testing.assert_close(logits(plain), outcome.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(load(outcome.out)), outcome.logits, atol=1e-4, rtol=1e-4)


def test_a_rank_is_divided_among_experts_alone() -> None:
    with pytest.raises(ValueError, match="set experts"):
        Lora(divide_rank=True)
