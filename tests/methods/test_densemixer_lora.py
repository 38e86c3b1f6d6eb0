"""DenseMixer on low-rank updates: its gates' gradients are those of the model with the updates merged in."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.densemixer import DenseMixer
from esft_bench.methods.densemixer_lora import DenseMixerLora
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context
from esft_bench.methods.moe.view import moe_layers
from tests.methods.helpers import MOE, Outcome, load, logits, tensors, tensors_of_routers, tokens

Checkpoints = Callable[[str], Path]
Models = Callable[..., PreTrainedModel]


def router_gradients(model: PreTrainedModel) -> list[Tensor]:
    """The gradient of every router's weight, layer by layer."""
    ids = tokens()
    model(input_ids=ids, labels=ids).loss.backward()
    return [
        weight.grad
        for name, weight in model.named_parameters()
        if weight.grad is not None and name.endswith(("mlp.gate.weight", "mlp.gate.modules_to_save.default.weight"))
    ]


@pytest.mark.parametrize("architecture", ["olmoe", "qwen2-moe", "deepseek-v2"])
def test_gates_learn_what_they_would_learn_of_the_merged_experts(
    tiny_checkpoint: Checkpoints, architecture: str
) -> None:
    outcome = Outcome(DenseMixerLora(rank=3, dropout=0.0), tiny_checkpoint(architecture))
    merged = load(outcome.out)
    DenseMixer().prepare(merged, Context(seed=0))
    found, expected = router_gradients(outcome.model.train()), router_gradients(merged.train())
    assert len(expected) == len(moe_layers(merged))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_trained_routers_are_in_the_adapter_that_plain_peft_loads(tiny_checkpoint: Checkpoints) -> None:
    outcome = Outcome(Lora(rank=2, routers=True), tiny_checkpoint("olmoe"))
    changed = outcome.changed()
    assert tensors_of_routers(set(tensors(outcome.base))) <= changed
    assert all(".self_attn." in name or name.endswith("mlp.gate.weight") for name in changed)
    plain = PeftModel.from_pretrained(load(outcome.base), outcome.adapter).eval()
    torch.testing.assert_close(logits(plain), outcome.logits)


def test_dropout_on_linear_layers_draws_what_pefts_own_draws(tiny_model: Models) -> None:
    ours, theirs = tiny_model("olmoe"), tiny_model("olmoe")
    Lora(rank=2, dropout=0.3, target_modules=("q_proj", "o_proj")).prepare(ours, Context(seed=0))
    theirs.add_adapter(LoraConfig(r=2, lora_alpha=16, lora_dropout=0.3, target_modules=["q_proj", "o_proj"]))
    seen = []
    for model in (ours, theirs):
        _fill(model)
        torch.manual_seed(1)
        seen.append(model.train()(input_ids=tokens()).logits)
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("architecture", MOE)
def test_dropout_on_experts_acts_in_training_alone_and_changes_nothing_on_average(
    tiny_model: Models, architecture: str
) -> None:
    """Of the down projections' updates alone, in which an expert's output is linear."""
    model = tiny_model(architecture)
    experts = next(iter(moe_layers(model).values())).experts
    Lora(rank=2, dropout=0.5, experts=True).prepare(model, Context(seed=0))
    _fill(model)
    for wrapper in (module for module in model.modules() if isinstance(module, ParamWrapper)):
        if "up_proj" in wrapper.parameter_name:
            wrapper.lora_B["default"].weight.data.zero_()
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, model.config.hidden_size, generator=generator)
    index = torch.stack([torch.randperm(8, generator=generator)[:2] for _ in range(6)])
    weights = torch.rand(6, 2, generator=generator)
    with torch.no_grad():
        whole = experts.eval()(hidden, index, weights)
        drawn = torch.stack([experts.train()(hidden, index, weights) for _ in range(400)])
    deviation = drawn.std(0)
    assert (deviation > 0).all()
    assert ((drawn.mean(0) - whole).abs() < 6 * deviation / 400**0.5).all()


def _fill(model: PreTrainedModel) -> None:
    """Random factors, the same in every model: as they begin, updates are nothing."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
