"""What only an accelerator shows: the experts kernel in bf16 and over grouped products, the canary's tolerance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.gpu.measure import synchronisations
from esft_bench.harness.serving import canary
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.experts import selected_experts, use_selective_experts
from esft_bench.methods.moe.view import moe_layers
from tests.methods.helpers import MOE, tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="skipped: this machine has no accelerator"),
]
DEVICE = "cuda"
Models = Callable[..., PreTrainedModel]
SIZES = {"hidden_size": 64}
"""Grouped products want rows of whole 16 bytes."""


def passes(model: PreTrainedModel) -> Tensor:
    """Logits on some tokens, after a backward pass from their loss."""
    ids = tokens().to(model.device)
    output = model(input_ids=ids, labels=ids)
    output.loss.backward()
    logits: Tensor = output.logits.detach().float().cpu()
    return logits


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference to the norm of what is expected."""
    return float((found.float().cpu() - expected.float().cpu()).norm() / expected.float().cpu().norm())


def selection(model: PreTrainedModel) -> dict[int, list[int]]:
    return {index: [5, 2] for index in moe_layers(model)}


@pytest.mark.parametrize("architecture", MOE)
def test_selective_experts_on_the_gpu_give_the_logits_and_gradients_of_the_cpu(
    tiny_model: Models, architecture: str
) -> None:
    """Grouped products on the device against the stock experts here, both in float32."""
    reference, model = tiny_model(architecture, **SIZES), tiny_model(architecture, **SIZES).to(DEVICE)
    reference.set_experts_implementation("eager")
    use_selective_experts(model, selection(model))
    expected, found = passes(reference), passes(model)
    assert relative(found, expected) < 1e-3  # TF32 may be on
    for index, layer in moe_layers(model).items():
        ours: Any = layer.experts
        theirs: Any = moe_layers(reference)[index].experts
        ids = selected_experts(layer)
        assert relative(ours.selected_gate_up.grad, theirs.gate_up_proj.grad[ids]) < 5e-3
        assert relative(ours.selected_down.grad, theirs.down_proj.grad[ids]) < 5e-3


def test_the_kernel_in_bf16_is_as_near_to_float32_as_the_stock_one(tiny_model: Models) -> None:
    """One experts module on one routing: in a whole model, rounding flips the choice of experts."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 64, generator=generator).to(DEVICE)
    index = torch.stack([torch.randperm(8, generator=generator)[:3] for _ in range(64)]).to(DEVICE)
    weights = torch.rand(64, 3, generator=generator).to(DEVICE)

    @torch.no_grad()
    def run(selective: bool, dtype: torch.dtype) -> Tensor:
        model = tiny_model("qwen3-moe", **SIZES).to(DEVICE, dtype)
        model.set_experts_implementation("eager")
        if selective:
            use_selective_experts(model, selection(model))
        output: Tensor = moe_layers(model)[1].experts(hidden.to(dtype), index, weights.to(dtype))
        return output

    exact = run(False, torch.float32)
    assert relative(run(True, torch.float32), exact) < 1e-3
    stock, ours = (relative(run(selective, torch.bfloat16), exact) for selective in (False, True))
    assert ours < 1.5 * stock + 1e-3


@pytest.mark.parametrize("method", [FullFineTuning(), EsftToken()], ids=["fft", "esft-token"])
def test_a_canary_in_bf16_stays_within_the_tolerance_after_export_and_merge(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, method: Method
) -> None:
    base = tiny_checkpoint("qwen3-moe")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).to(DEVICE)
    if isinstance(method, EsftToken):
        parameters = method.train_experts(model, selection(model))
    else:
        parameters = method.prepare(model, Context(seed=0))
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    for _ in range(3):
        passes(model)
        optimizer.step()
        optimizer.zero_grad()
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    adapter.mkdir()
    out.mkdir()
    method.export(model, adapter)
    method.merge(base, adapter, out)
    served = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).to(DEVICE)
    prompts = tokens(rows=2).tolist()
    assert canary.compare(canary.measure(model, prompts), canary.measure(served, prompts)) < canary.BFLOAT16_TOLERANCE


def test_selected_experts_have_a_step_wait_for_the_device_once_a_layer_at_most(tiny_model: Models) -> None:
    """In bf16: products of float32 go group by group on the device, and wait for each."""
    ids = tokens().to(DEVICE)

    def waits(selected: bool) -> int:
        model = tiny_model("qwen3-moe", **SIZES).to(DEVICE, torch.bfloat16).requires_grad_(False)
        model.get_input_embeddings().requires_grad_(True)
        use_selective_experts(model, selection(model) if selected else {})

        def step() -> None:
            model.base_model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()

        step()
        return synchronisations(step)

    assert waits(True) <= waits(False) + 3 + 1  # layers, and what one count differs from the next by
