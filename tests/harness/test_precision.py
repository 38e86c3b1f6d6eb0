"""Whatever trains is float32 while it is trained, for every method alike, whatever the backbone is stored in."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.harness.plan.price.step import Batch, Execution, simulate
from esft_bench.harness.training.loop import Options, train
from esft_bench.harness.training.precision import held, products
from esft_bench.methods.attention_router import AttentionRouter
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.method import Context, Method
from esft_bench.spec.training import Training
from tests.conftest import build
from tests.harness.test_train import sequences
from tests.methods.helpers import TRAINING, logits, profiled

Models = Callable[..., PreTrainedModel]
SMALL_STEPS = Training(steps=4, batch_size=4, sequence_length=12, learning_rate=1e-5)
METHODS = {name: TRAINING[name] for name in ("fft", "attention-router", "lora-experts", "esft-token", "esft-lora")}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture(autouse=True)
def _no_precision_is_left() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def moved(model: PreTrainedModel, method: Method, precision: str, scratch: Path) -> float:
    """The share of trained numbers that four small steps move, seen before they are rounded to the backbone's type."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one precision a process, outside of tests
    parameters = list(method.prepare(model, Context(0, profiled(model))))
    with held(parameters):
        before = [parameter.detach().clone() for parameter in parameters]
        train(model, parameters, sequences(), SMALL_STEPS, scratch, Options(mixed_precision=products(precision)))
        assert {parameter.dtype for parameter in parameters} == {torch.float32}
        changed = [(a != b).sum() for a, b in zip(before, parameters, strict=True)]
    return float(sum(changed)) / sum(parameter.numel() for parameter in parameters)


@each_method
def test_the_share_of_weights_that_small_steps_move_is_that_of_float32(
    tiny_model: Models, tmp_path: Path, method: Method
) -> None:
    whole = moved(tiny_model("deepseek-v2"), method, "float32", tmp_path / "whole")
    half = moved(tiny_model("deepseek-v2").to(torch.bfloat16), method, "bf16", tmp_path / "half")
    assert whole > 0.4
    assert half == pytest.approx(whole, abs=0.01)


@each_method
def test_what_came_out_is_rounded_once_and_the_model_runs_as_it_is_stored(
    tiny_model: Models, tmp_path: Path, method: Method
) -> None:
    model = tiny_model("deepseek-v2").to(torch.bfloat16)
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    moved(model, method, "bf16", tmp_path)
    kept = {name: parameter.dtype for name, parameter in model.named_parameters() if name in types}
    assert kept == {name: types[name] for name in kept}
    assert logits(model).isfinite().all()


def test_without_it_most_small_steps_of_a_bfloat16_model_are_lost() -> None:
    """What the above is for: AdamW on bfloat16 weights themselves."""
    weight = torch.nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16))
    before: Tensor = weight.detach().clone()
    optimizer = torch.optim.AdamW([weight], lr=1e-5)
    for _ in range(4):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert float((weight != before).double().mean()) < 0.1


@pytest.mark.parametrize("method", [FullFineTuning(), AttentionRouter()], ids=["fft", "attention-router"])
def test_the_estimate_counts_16_bytes_for_a_trained_parameter_and_2_for_a_frozen_one(method: Method) -> None:
    config = build("deepseek-v2", hidden_size=256, moe_intermediate_size=256, vocab_size=512).config
    one = simulate(config, method, Context(0), Batch(1, 4), Execution("bf16"))
    whole = sum(parameter.numel() for parameter in build("deepseek-v2", **_shape(config)).parameters())
    floor = 16 * one.trainable_parameters + 2 * (whole - one.trainable_parameters)
    assert floor <= one.peak_bytes <= 1.25 * floor


def _shape(config: object) -> dict[str, int]:
    return {name: getattr(config, name) for name in ("hidden_size", "moe_intermediate_size", "vocab_size")}
