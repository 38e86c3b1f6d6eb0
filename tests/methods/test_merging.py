"""What each method's options and adapters change in the base, and which adapters are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from esft_bench.methods.all_experts import AllExperts
from esft_bench.methods.base_model import UntrainedBase
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.esft_router import EsftRouter
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.layout import read_config
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.top_k_experts import TopKExperts
from tests.methods.conftest import Outcomes
from tests.methods.helpers import (
    MOE,
    PARTS,
    TRAINING,
    Outcome,
    load,
    logits,
    pieces,
    profiled,
    seen_by,
    tensors,
    tensors_of_experts,
    tensors_of_routers,
)

Checkpoints = Callable[[str], Path]
Models = Callable[..., PreTrainedModel]


@pytest.mark.parametrize(
    ("options", "also"),
    [
        ({"shared_experts": True}, lambda name: ".shared_expert" in name),
        ({"non_expert_modules": True}, lambda name: "expert" not in name),
        ({"shared_experts": True, "non_expert_modules": True}, lambda name: ".experts." not in name),
    ],
    ids=["shared", "non-expert", "both"],
)
@pytest.mark.parametrize("architecture", ["deepseek-v2", "qwen2-moe"])
def test_esft_options_train_what_they_name(
    tiny_checkpoint: Checkpoints, architecture: str, options: dict[str, Any], also: Callable[[str], bool]
) -> None:
    outcome = Outcome(EsftToken(**options), tiny_checkpoint(architecture))
    selected = {name for name in tensors(outcome.adapter) if ".experts." in name}
    assert selected
    assert outcome.changed() == selected | {name for name in tensors(outcome.base) if also(name)}
    torch.testing.assert_close(logits(load(outcome.out)), logits(outcome.model), atol=1e-5, rtol=1e-5)
    written = json.loads((outcome.adapter / "expert_cfg.json").read_text())
    assert {key: written[key] for key in options} == options


@pytest.mark.parametrize("architecture", MOE)
def test_attention_and_routers_change_and_not_a_byte_more(outcomes: Outcomes, architecture: str) -> None:
    """Every projection of every attention, dense layers counted, and the routers; experts, embeddings, norms stay."""
    outcome = outcomes(architecture, "attention-router")
    names = set(tensors(outcome.base))
    attention = {name for name in names if ".self_attn." in name and "norm" not in name}
    routers = tensors_of_routers(names)
    assert len({name.split(".")[2] for name in attention}) == 3
    assert {int(name.split(".")[2]) for name in routers} == set(moe_layers(outcome.model))
    assert outcome.changed() == attention | routers == set(tensors(outcome.adapter))


@pytest.mark.parametrize("architecture", MOE)
def test_esft_router_changes_selected_experts_and_the_routers_of_their_layers(
    tiny_checkpoint: Checkpoints, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest layer selects nothing here, so its router stays."""
    monkeypatch.setattr(EsftRouter, "select", lambda self, seen: {index: [6, 1] for index in seen.layers[:-1]})
    outcome = Outcome(EsftRouter(), tiny_checkpoint(architecture))
    layers = list(moe_layers(outcome.model))[:-1]
    changed = outcome.changed()
    names = pieces(outcome.base)
    experts = tensors_of_experts(names, dict.fromkeys(layers, (6, 1)))
    assert len(experts) == PARTS.get(architecture, 3) * 2 * len(layers)
    routers = {name for name in tensors_of_routers(names) if int(name.split(".")[2]) in layers}
    assert changed == experts | routers == set(tensors(outcome.adapter))


def test_the_base_is_merged_as_it_is(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    base, adapter, out = tiny_checkpoint("olmoe"), tmp_path / "adapter", tmp_path / "out"
    adapter.mkdir()
    out.mkdir()
    method = UntrainedBase()
    model = load(base)
    assert method.prepare(model, Context(seed=0)) == []
    method.export(model, adapter)
    method.merge(base, adapter, out)
    assert list(adapter.iterdir()) == []
    assert {p.name: p.read_bytes() for p in base.iterdir()} == {p.name: p.read_bytes() for p in out.iterdir()}


def test_an_official_adapter_with_the_old_prefix_is_merged(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    outcome = Outcome(EsftToken(), tiny_checkpoint("deepseek-v2"))
    old, again = tmp_path / "old", tmp_path / "again"
    old.mkdir()
    again.mkdir()
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors(outcome.adapter).items()}
    save_file(renamed, old / "model.safetensors")
    (old / "expert_cfg.json").write_text((outcome.adapter / "expert_cfg.json").read_text())
    EsftToken().merge(outcome.base, old, again)
    merged, expected = tensors(again), tensors(outcome.out)
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_an_adapter_without_a_readable_config_is_refused(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    base = tiny_checkpoint("olmoe")
    with pytest.raises(MethodError, match=r"no expert_cfg\.json"):
        EsftToken().merge(base, base, tmp_path)
    (base / "expert_cfg.json").write_text('{"experts": {"one": [1]}}')
    with pytest.raises(MethodError, match=r"expert_cfg\.json: experts"):
        EsftToken().merge(base, base, tmp_path)


@pytest.mark.parametrize("architecture", ["olmoe", "gpt-oss"])
def test_an_adapter_that_lacks_an_expert_it_names_is_refused(
    tiny_checkpoint: Checkpoints, tmp_path: Path, architecture: str
) -> None:
    outcome = Outcome(TopKExperts(count=2), tiny_checkpoint(architecture))
    config = outcome.adapter / "expert_cfg.json"
    chosen = read_config(outcome.adapter).experts
    missing = next(expert for expert in range(8) if expert not in chosen[1])
    config.write_text(json.dumps({"experts": chosen | {1: [*chosen[1], missing]}}))
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(MethodError, match=f"names expert {missing} of layer 1, of which the adapter has no `model"):
        EsftToken().merge(outcome.base, outcome.adapter, again)
    assert list(again.iterdir()) == []


@pytest.mark.parametrize("method", [EsftToken(), AllExperts(), EsftLora()], ids=["esft", "all-experts", "esft-lora"])
def test_experts_that_cannot_be_told_in_checkpoints_are_refused_before_training(
    tiny_model: Any, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("granite-moe")
    flat = lambda model, tensors: {name: tensor.flatten() for name, tensor in tensors.items()}  # noqa: E731
    monkeypatch.setattr("esft_bench.methods.moe.export.hub_tensors", flat)
    with pytest.raises(MethodError, match=r"checkpoints of GraniteMoeForCausalLM keep `.*gate_up_proj` as .* told"):
        method.prepare(model, Context(seed=0, profile=profiled(model)))


@pytest.mark.parametrize("method", TRAINING.values(), ids=TRAINING)
def test_a_quantised_checkpoint_is_refused_before_training_with_what_to_do(tiny_model: Any, method: Method) -> None:
    model = tiny_model("gpt-oss")
    seen = seen_by(model)
    model.config.quantization_config = {"quant_method": "mxfp4"}
    with pytest.raises(MethodError, match=r"is quantised.*dequantize=True.* save it"):
        method.prepare(model, seen)


def test_a_checkpoint_that_was_dequantised_in_loading_is_refused_too(tiny_model: Any) -> None:
    """Loading takes the quantisation out of the configuration; the merge would still be into the quantised file."""
    model = tiny_model("gpt-oss")
    dequantize = SimpleNamespace(operations=[SimpleNamespace(hf_quantizer=object())])
    model._weight_conversions = [dequantize]
    with pytest.raises(MethodError, match="is quantised"):
        FullFineTuning().prepare(model, Context(seed=0))
