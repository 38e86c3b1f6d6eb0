"""Low-rank updates of selected experts: which they are, what they learn from, and what they become."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.method import Context
from esft_bench.methods.moe.low_rank import use_low_rank_experts
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.recompute import checkpoint_gradients
from tests.methods.helpers import (
    MOE,
    PARTS,
    Outcome,
    backward,
    load,
    logits,
    pieces,
    profiled,
    tensors,
    tensors_of_experts,
    train,
)

Models = Callable[..., PreTrainedModel]
Checkpoints = Callable[[str], Path]


@pytest.mark.parametrize("architecture", MOE)
def test_the_factors_get_the_projection_of_the_gradient_fft_gives(tiny_model: Models, architecture: str) -> None:
    """Of each projection's gradient G, with B = 0: scaling · G Aᵀ for B, and nothing for A."""
    full, low = tiny_model(architecture), tiny_model(architecture)
    backward(full)
    low.requires_grad_(False)
    use_low_rank_experts(low, {index: [5, 2] for index in moe_layers(low)}, rank=3, scaling=0.7)
    backward(low)
    for index, layer in moe_layers(low).items():
        for bank, kind in (("selected_gate_up", "gate_up_proj"), ("selected_down", "down_proj")):
            update: Any = layer.experts.get_submodule(f"parametrizations.{bank}.0")
            gradient = moe_layers(full)[index].experts.get_parameter(kind).grad[[5, 2]]
            gradient = gradient.mT if layer.experts.is_transposed else gradient
            projections = torch.stack(gradient.chunk(update.b.shape[1], dim=1), dim=1)
            torch.testing.assert_close(update.b.grad, 0.7 * projections @ update.a.mT)
            assert update.b.grad.abs().max() > 0
            assert update.a.grad.abs().max() == 0
            assert layer.experts.get_parameter(kind).grad is None


@pytest.mark.parametrize("architecture", MOE)
def test_exactly_the_selected_experts_change_each_projection_by_a_matrix_of_the_rank(
    tiny_checkpoint: Checkpoints, architecture: str
) -> None:
    base = tiny_checkpoint(architecture)
    method = EsftLora(score="token", p=0.3, rank=2)
    chosen = method.select(profiled(load(base)))
    outcome = Outcome(method, base)
    changed = outcome.changed()
    assert changed == {name for name in tensors_of_experts(pieces(base), chosen) if "_bias" not in name}
    assert len(changed) == (2 if architecture in PARTS else 3) * sum(map(len, chosen.values()))
    before, after = pieces(base), pieces(outcome.out)
    for name in changed:
        values = torch.linalg.svdvals(after[name] - before[name])
        assert values[1] > 1e-3, name
        assert values[2] < 1e-5, name


def test_the_adapter_holds_the_factors_alone(tiny_checkpoint: Checkpoints) -> None:
    outcome = Outcome(EsftLora(rank=2), tiny_checkpoint("deepseek-v2"))
    written = tensors(outcome.adapter)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in written)
    assert sum(map(torch.numel, written.values())) == sum(map(torch.numel, outcome.parameters))


def test_the_factors_start_from_the_seed_and_leave_the_global_generator_alone(tiny_model: Models) -> None:
    def factors(seed: int) -> list[Tensor]:
        model = tiny_model("olmoe")
        seen = profiled(model)
        state = torch.get_rng_state()
        prepared = EsftLora().prepare(model, Context(seed=seed, profile=seen))
        assert torch.equal(torch.get_rng_state(), state)
        return [parameter.detach() for parameter in prepared]

    first, again, other = factors(1), factors(1), factors(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_gradient_checkpointing_trains_the_same_factors(tiny_model: Models) -> None:
    ends = []
    for checkpointing in (False, True):
        model = tiny_model("deepseek-v2")
        seen = profiled(model)
        model.train()
        if checkpointing:
            checkpoint_gradients(model)
        train(model, EsftLora().prepare(model, Context(seed=0, profile=seen)))
        ends.append(logits(model))
    torch.testing.assert_close(ends[0], ends[1])


def test_a_half_precision_base_gets_float32_factors_and_experts_in_float32_where_they_changed(
    tiny_model: Models, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    tiny_model("deepseek-v2").to(torch.bfloat16).save_pretrained(base)
    outcome = Outcome(EsftLora(rank=2), base)
    assert {parameter.dtype for parameter in outcome.parameters} == {torch.float32}
    before, after = tensors(base), tensors(outcome.out)
    wide = {name for name, tensor in after.items() if tensor.dtype == torch.float32}
    assert wide == outcome.changed()
    for name in outcome.changed():
        stem = name.removesuffix(".weight")
        a, b = (tensors(outcome.adapter)[f"{stem}.lora_{factor}.weight"] for factor in "AB")
        torch.testing.assert_close(after[name], before[name].float() + b @ a)


@pytest.mark.parametrize(
    ("stem", "shapes", "message"),
    [
        (
            "model.layers.9.mlp.experts.0.up_proj",
            ((2, 32), (16, 2)),
            r"layers\.9.*does not have",
        ),
        ("model.layers.1.mlp.experts.0.up_proj", ((2, 32), (24, 2)), r"is \[24, 32\].*and \[16, 32\] in"),
        ("model.layers.1.mlp.experts.0.up_proj", ((2, 32), None), "no low-rank adapter"),
        ("model.layers.1.mlp.experts.0.up_proj", (None, None), "no low-rank adapter"),
    ],
    ids=["unknown layer", "other shape", "half a pair", "no factors"],
)
def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_written(
    tiny_checkpoint: Checkpoints, tmp_path: Path, stem: str, shapes: tuple[tuple[int, int] | None, ...], message: str
) -> None:
    base, adapter, out = tiny_checkpoint("deepseek-v2"), tmp_path / "adapter", tmp_path / "out"
    adapter.mkdir()
    out.mkdir()
    factors = {
        f"{stem}.lora_{name}.weight": torch.zeros(shape) for name, shape in zip("AB", shapes, strict=True) if shape
    }
    save_file(factors or {f"{stem}.weight": torch.zeros(16, 32)}, adapter / "adapter_model.safetensors")
    with pytest.raises(MethodError, match=message):
        EsftLora().merge(base, adapter, out)
    assert list(out.iterdir()) == []
    assert not list(tmp_path.glob(".merge-*"))
