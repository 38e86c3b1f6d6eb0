"""Frozen experts in FP8: the same training, to the last bit, in half the bytes."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from esft_bench.harness.backbone.dequantise import from_fp8
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.hub import WEIGHTS
from esft_bench.methods.method import Context
from esft_bench.methods.moe import fp8
from esft_bench.methods.moe.frozen import pack_frozen
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.view import moe_layers
from tests.conftest import build
from tests.harness.quantised import to_fp8

CPU = torch.device("cpu")
IDS = torch.randint(3, 60, (4, 24), generator=torch.Generator().manual_seed(0))


class Experts(nn.Module):
    """A fused matrix."""

    def __init__(self, weight: torch.Tensor, name: str) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(weight, requires_grad=False))


def shipped(experts: int, rows: int, columns: int, *, powers: bool = False) -> torch.Tensor:
    """bfloat16 matrices as they are unpacked from FP8, some of their blocks nought."""
    found = []
    for number in range(experts):
        weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(number)) * 0.02 * (number % 3)
        numbers, scales = to_fp8(weight + 1e-30)
        scales = torch.exp2(scales.log2().ceil()) if powers else scales
        found.append(from_fp8(numbers, scales, (128, 128)))
    return torch.stack(found)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 300), st.integers(1, 300), st.booleans(), st.booleans())
def test_what_ships_in_fp8_is_packed_and_comes_back_to_the_last_bit(experts, rows, columns, powers, in_float32) -> None:
    weight = shipped(experts, rows, columns, powers=powers)
    holder = Experts(weight.float() if in_float32 else weight, "down_proj")
    fp8.pack(holder, "down_proj", CPU)
    packed = fp8.weights_of(holder, "down_proj")
    assert holder.down_proj.dtype == torch.float8_e4m3fn
    assert torch.equal(packed.to(torch.bfloat16), weight)
    assert torch.equal(packed.to(torch.float32), weight.float())
    plain = torch.stack([from_fp8(*each, (128, 128)) for each in zip(packed.numbers, packed.scales[:, 0], strict=True)])
    assert torch.equal(plain, weight)


def test_experts_are_packed_some_at_a_time_and_gate_and_up_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.cat([shipped(5, 40, 50), shipped(5, 40, 50) * 4], dim=1)
    monkeypatch.setattr(fp8, "AT_ONCE", 9000)
    holder = Experts(weight, "gate_up_proj")
    fp8.pack(holder, "gate_up_proj", CPU)
    assert fp8.weights_of(holder, "gate_up_proj").scales.shape == (5, 2, 1, 1)
    assert torch.equal(fp8.weights_of(holder, "gate_up_proj").to(torch.bfloat16), weight)


def test_numbers_that_would_not_come_back_are_refused() -> None:
    with pytest.raises(MethodError, match="numbers that are none of FP8 in blocks of 128 × 128"):
        fp8.pack(Experts(torch.randn(2, 8, 8), "down_proj"), "down_proj", CPU)


def backbone(architecture: str) -> PreTrainedModel:
    """A model whose experts are as unpacked from FP8."""
    model = build(architecture)
    for layer in moe_layers(model).values():
        for name in layer.weights:
            weight = layer.experts.get_parameter(name)
            halves = weight.data.chunk(2, 1) if name == "gate_up_proj" else (weight.data,)
            for half in halves:
                for one in half:
                    one.copy_(from_fp8(*to_fp8(one), (128, 128)))
    return model


def trained(architecture: str, seen: Profile, packs: bool, folder: Path, dtype: torch.dtype) -> list[torch.Tensor]:
    """Losses and the exported adapter of three steps."""
    model = backbone(architecture).to(dtype)
    method = EsftToken(p=0.4)
    parameters = method.prepare(model, Context(seed=0, profile=seen))
    if packs:
        pack_frozen(model, CPU)
        assert all(layer.experts.down_proj.dtype == torch.float8_e4m3fn for layer in moe_layers(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach().float())
    folder.mkdir()
    method.export(model, folder)
    after = profile(model, [(IDS, torch.ones_like(IDS))])
    return [*losses, *load_file(folder / WEIGHTS).values(), after.norm_sums]


@pytest.mark.parametrize("architecture", ["deepseek-v3", "qwen3-moe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_with_frozen_experts_in_fp8_is_that_on_the_unpacked_checkpoint(
    architecture: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    seen = profile(backbone(architecture), [(IDS, torch.ones_like(IDS))])
    packed, plain = (trained(architecture, seen, packs, tmp_path / str(packs), dtype) for packs in (True, False))
    assert len(packed) == len(plain) > 4
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(packed, plain, strict=True))


def test_no_graph_keeps_the_numbers_of_packed_experts() -> None:
    model = backbone("qwen3-moe")
    seen = profile(model, [(IDS, torch.ones_like(IDS))])
    EsftToken(p=0.4).prepare(model, Context(seed=0, profile=seen))
    pack_frozen(model, CPU)
    shapes = {layer.experts.get_parameter(name).shape for layer in moe_layers(model).values() for name in layer.weights}
    kept: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each):
        model(input_ids=IDS, labels=IDS).loss.backward()
    assert kept
    assert not shapes & {*kept, *(torch.Size([s[0], s[2], s[1]]) for s in kept if len(s) == 3)}


def test_experts_that_are_trained_stay_as_they_are() -> None:
    model = backbone("qwen3-moe")
    FullFineTuning().prepare(model, Context(seed=0))
    pack_frozen(model, CPU)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    dense = build("dense")
    pack_frozen(dense, CPU)
