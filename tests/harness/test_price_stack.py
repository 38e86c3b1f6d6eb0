"""A stack of alike layers of which a few are carried out costs what the whole one does."""

from typing import Any

import pytest

from esft_bench.harness.plan.price import step as steps
from esft_bench.harness.plan.price.shapes import SHARE
from esft_bench.harness.plan.price.stack import shorten
from esft_bench.harness.plan.price.step import Batch, Execution, simulate
from esft_bench.methods.das_experts import DasExperts
from esft_bench.methods.densemixer import DenseMixer
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.assumed import assumed_profiles
from esft_bench.methods.moe.view import moe_layers
from esft_bench.spec.training import Training
from tests.conftest import build

DEEP = {"num_hidden_layers": 9, "hidden_size": 64}
SAVING = Training(gradient_checkpointing=True)


def context(architecture: str) -> tuple[Any, Context]:
    model = build(architecture, **DEEP)
    domain, general = assumed_profiles(moe_layers(model))
    return model.config, Context(seed=0, profile=domain, general=general)


@pytest.mark.parametrize(
    ("architecture", "method", "how"),
    [
        ("qwen3-moe", EsftToken(p=0.2), Execution("bf16", SAVING)),
        ("qwen3-moe", Lora(rank=4, experts=True), Execution("bf16", SAVING)),
        ("qwen3-moe", Lora(rank=4), Execution("bf16-mixed")),
        ("qwen3-moe", DenseMixer(), Execution()),
        ("deepseek-v2", EsftGate(p=0.3, non_expert_modules=True), Execution("bf16")),
        ("deepseek-v3", FullFineTuning(), Execution("bf16", SAVING, shared=True)),
        ("mixtral", FullFineTuning(), Execution()),
        ("olmoe", DasExperts(), Execution("bf16", SAVING)),
    ],
)
def test_few_layers_tell_the_very_numbers_of_the_whole_stack(
    architecture: str, method: Method, how: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, known = context(architecture)
    short: list[Any] = []

    def noted(model: Any) -> Any:
        short.append(shorten(model))
        return short[-1]

    monkeypatch.setattr(steps, "shorten", noted)
    for length in (16, 512):  # the most that is alive is elsewhere in the one than in the other
        found = simulate(config, method, known, Batch(2, length), how)
        with monkeypatch.context() as whole:
            whole.setattr(steps, "shorten", lambda model: None)
            assert found == simulate(config, method, known, Batch(2, length), how)
    assert all(each.cut > 2 for each in short)


def test_layers_that_differ_are_all_carried_out() -> None:
    config, known = context("qwen3-moe")
    model = steps._on_meta(config, EsftToken(p=0.2), known, Execution()).model
    for number, layer in enumerate(moe_layers(model).values()):
        setattr(layer.experts, SHARE, number / 10)
    assert shorten(model) is None
    config.layer_types = ["sliding_attention", "full_attention"] * 4 + ["full_attention"]
    assert shorten(build("gpt-oss", **DEEP)) is None


def test_where_what_is_counted_tells_nothing_all_layers_are_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    config, known = context("qwen3-moe")
    asked = (config, EsftToken(p=0.2), known, Batch(2, 16))
    expected = simulate(*asked)
    monkeypatch.setattr(steps, "highest", lambda *_: None)
    assert simulate(*asked) == expected
