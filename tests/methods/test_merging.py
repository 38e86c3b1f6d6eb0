"""What is exported, merged into the base, is the trained model, and differs from the base where it should."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from esft_bench.methods.all_experts import AllExperts
from esft_bench.methods.base import Base
from esft_bench.methods.checkpoint import TensorFiles, overlay
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import Esft, EsftToken
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.esft_router import EsftRouter
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.layout import read_config
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.random_experts import RandomExperts
from esft_bench.methods.top_k_experts import TopKExperts
from tests.methods.conftest import Outcomes
from tests.methods.helpers import (
    EXPERT_TRAINING,
    MOE,
    PARTS,
    TRAINING,
    Outcome,
    experts_of,
    load,
    logits,
    pieces,
    profiled,
    routers_of,
    tensors,
    train,
)

Checkpoints = Callable[[str], Path]


@pytest.mark.parametrize("method", TRAINING)
@pytest.mark.parametrize("architecture", MOE)
def test_the_merged_checkpoint_is_the_trained_model(outcomes: Outcomes, architecture: str, method: str) -> None:
    outcome = outcomes(architecture, method)
    assert (outcome.logits - outcome.base_logits).abs().max() > 1e-2
    torch.testing.assert_close(logits(load(outcome.out)), outcome.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", EXPERT_TRAINING)
@pytest.mark.parametrize("architecture", MOE)
def test_expert_training_changes_the_selected_experts_and_not_a_byte_more(
    outcomes: Outcomes, architecture: str, method: str
) -> None:
    """Experts' biases, where there are any, are parts of them."""
    outcome = outcomes(architecture, method)
    chosen = read_config(outcome.adapter).experts
    expected = experts_of(pieces(outcome.base), chosen)
    assert len(expected) == PARTS.get(architecture, 3) * sum(map(len, chosen.values())) > 0
    assert outcome.changed() == expected == set(tensors(outcome.adapter))


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
def test_lora_on_experts_changes_every_expert_and_no_router(outcomes: Outcomes, architecture: str) -> None:
    """LoRA has no update of biases."""
    outcome = outcomes(architecture, "lora")
    changed, names = outcome.changed(), set(pieces(outcome.base))
    every = {layer: range(8) for layer in moe_layers(load(outcome.base))}
    routed = experts_of(names, every)
    assert len(routed) == PARTS.get(architecture, 3) * 8 * len(every)
    shared = {name for name in names if "shared_expert" in name and "shared_expert_gate" not in name}
    assert bool(shared) == (architecture in {"deepseek-v2", "deepseek-v3", "qwen2-moe"})
    attention = {name for name in names if ".self_attn." in name and name.endswith("_proj.weight")}
    assert {name for name in routed if "_bias" not in name} | shared | attention <= changed
    routers = routers_of(names) | {name for name in names if "shared_expert_gate" in name}
    assert len(routers) >= len(every)
    assert not routers & changed


@pytest.mark.parametrize("architecture", MOE)
def test_lora_on_experts_loads_in_plain_peft(outcomes: Outcomes, architecture: str) -> None:
    outcome = outcomes(architecture, "lora")
    plain = PeftModel.from_pretrained(load(outcome.base), outcome.adapter).eval()
    torch.testing.assert_close(logits(plain), outcome.logits, atol=1e-5, rtol=1e-5)


def test_lora_on_attention_changes_attention_alone_and_loads_in_plain_peft(tiny_checkpoint: Checkpoints) -> None:
    outcome = Outcome(Lora(rank=2), tiny_checkpoint("deepseek-v2"))
    changed = outcome.changed()
    assert changed == {name for name in tensors(outcome.base) if ".self_attn." in name and "norm" not in name}
    plain = PeftModel.from_pretrained(load(outcome.base), outcome.adapter).eval()
    torch.testing.assert_close(logits(plain), logits(outcome.model))


@pytest.mark.parametrize("architecture", MOE)
def test_attention_and_routers_change_and_not_a_byte_more(outcomes: Outcomes, architecture: str) -> None:
    """Every projection of every attention, dense layers counted, and the routers; experts, embeddings, norms stay."""
    outcome = outcomes(architecture, "attention-router")
    names = set(tensors(outcome.base))
    attention = {name for name in names if ".self_attn." in name and "norm" not in name}
    routers = routers_of(names)
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
    experts = experts_of(names, dict.fromkeys(layers, (6, 1)))
    assert len(experts) == PARTS.get(architecture, 3) * 2 * len(layers)
    routers = {name for name in routers_of(names) if int(name.split(".")[2]) in layers}
    assert changed == experts | routers == set(tensors(outcome.adapter))


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


def test_random_experts_are_as_many_as_selected_and_others_for_another_seed(tiny_model: Any) -> None:
    seen = profiled(tiny_model("deepseek-v2"))
    of = EsftToken(p=0.5)
    method = RandomExperts(of=of)
    counts = {layer: len(ids) for layer, ids in of.select(seen).items()}
    draws = [method.select(seen, seed) for seed in (1, 1, 2, 3)]
    assert all({layer: len(ids) for layer, ids in drawn.items()} == counts for drawn in draws)
    assert draws[0] == draws[1]
    assert len({str(drawn) for drawn in draws}) > 1


def test_random_experts_read_the_settings_of_a_suite(tiny_checkpoint: Checkpoints) -> None:
    method = RandomExperts.model_validate({"of": {"method": "esft-gate", "p": 0.3, "shared_experts": True}})
    assert (method.of.score, method.of.p, method.of.shared_experts) == ("gate", 0.3, True)
    assert RandomExperts.model_validate(method.model_dump()) == method.model_copy(
        update={"of": Esft(**method.of.model_dump())}
    )
    outcome = Outcome(method, tiny_checkpoint("deepseek-v2"))
    assert outcome.changed() == set(tensors(outcome.adapter))
    with pytest.raises(ValueError, match="fft"):
        RandomExperts.model_validate({"of": {"method": "fft"}})


def test_the_base_is_merged_as_it_is(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    base, adapter, out = tiny_checkpoint("olmoe"), tmp_path / "adapter", tmp_path / "out"
    adapter.mkdir()
    out.mkdir()
    method = Base()
    model = load(base)
    assert method.prepare(model, Context(seed=0)) == []
    method.export(model, adapter)
    method.merge(base, adapter, out)
    assert list(adapter.iterdir()) == []
    assert {p.name: p.read_bytes() for p in base.iterdir()} == {p.name: p.read_bytes() for p in out.iterdir()}


def test_a_sharded_base_stays_sharded_and_keeps_its_other_files(tiny_model: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_model("deepseek-v2").save_pretrained(base, max_shard_size="40KB")
    (base / "tokenizer.json").write_text("{}")
    (base / "pytorch_model.bin").write_text("old weights")
    assert len(list(base.glob("*.safetensors"))) > 2
    outcome = Outcome(EsftToken(p=0.05), base)
    kept = {path.name for path in base.iterdir()} - {"pytorch_model.bin"}
    assert {path.name for path in outcome.out.iterdir()} == kept
    torch.testing.assert_close(logits(load(outcome.out)), logits(outcome.model), atol=1e-5, rtol=1e-5)


def test_merged_tensors_keep_what_was_trained_to_the_last_bit_in_the_wider_of_both_types(tmp_path: Path) -> None:
    base, changed, out = tmp_path / "base", tmp_path / "changed", tmp_path / "out"
    for folder in (base, changed, out):
        folder.mkdir()
    narrow, wide = torch.bfloat16, torch.float32
    old = {"a": torch.zeros(2, dtype=narrow), "b": torch.ones(2), "c": torch.zeros(3, 2, dtype=narrow)}
    new = {"a": torch.full((2,), 0.1), "b": torch.full((2,), 0.1, dtype=narrow), "c[1]": torch.full((2,), 0.1)}
    save_file(old, base / "model.safetensors")
    save_file(new, changed / "changed.safetensors")
    overlay(base, changed, out)
    merged = load_file(out / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in merged.items()} == {"a": wide, "b": wide, "c": wide}
    assert torch.equal(merged["a"], new["a"])
    assert torch.equal(merged["b"], new["b"].float())
    assert torch.equal(merged["c"], torch.stack([torch.zeros(2), new["c[1]"], torch.zeros(2)]))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [({"c": torch.zeros(2)}, "`c`"), ({"a": torch.zeros(3)}, r"`a` is \[3\]")],
    ids=["unknown name", "other shape"],
)
def test_an_adapter_of_another_backbone_is_refused_before_anything_is_written(
    tmp_path: Path, tensor: dict[str, Tensor], message: str
) -> None:
    base, changed, out = (tmp_path / name for name in ("base", "changed", "out"))
    for folder in (base, changed, out):
        folder.mkdir()
    save_file({"a": torch.zeros(2)}, base / "model.safetensors")
    save_file(tensor, changed / "adapter_model.safetensors")
    with pytest.raises(MethodError, match=message):
        overlay(base, changed, out)
    assert list(out.iterdir()) == []


def test_a_folder_without_or_with_broken_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"no \.safetensors"):
        overlay(tmp_path, tmp_path, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(MethodError, match=r"model\.safetensors is not"):
        overlay(tmp_path, tmp_path, tmp_path)


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
    with pytest.raises(MethodError, match=f"names expert {missing} of layer 1, of which the adapter has no tensor"):
        EsftToken().merge(outcome.base, outcome.adapter, again)
    assert list(again.iterdir()) == []


@pytest.mark.parametrize("method", [EsftToken(), AllExperts(), EsftLora()], ids=["esft", "all-experts", "esft-lora"])
def test_experts_that_cannot_be_told_in_checkpoints_are_refused_before_training(
    tiny_model: Any, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("granite-moe")
    flat = lambda model, tensors: {name: tensor.flatten() for name, tensor in tensors.items()}  # noqa: E731
    monkeypatch.setattr("esft_bench.methods.moe.layout.revert_weight_conversion", flat)
    with pytest.raises(MethodError, match=r"checkpoints of GraniteMoeForCausalLM keep `.*gate_up_proj` as .* told"):
        method.prepare(model, Context(seed=0, profile=profiled(model)))


def test_training_shared_experts_is_refused_where_there_are_none(tiny_model: Any) -> None:
    model = tiny_model("olmoe")
    with pytest.raises(MethodError, match="shared_experts is set, but OlmoeForCausalLM has no shared experts"):
        EsftToken(shared_experts=True).prepare(model, Context(seed=0, profile=profiled(model)))


def test_a_row_beyond_the_experts_of_a_fused_tensor_is_refused(tmp_path: Path) -> None:
    base, changed = tmp_path / "base", tmp_path / "changed"
    for folder in (base, changed):
        folder.mkdir()
    save_file({"a": torch.zeros(4, 2)}, base / "model.safetensors")
    save_file({"a[4]": torch.zeros(2)}, changed / "adapter_model.safetensors")
    with pytest.raises(MethodError, match=r"changes `a\[4\]`, which .* does not have"):
        overlay(base, changed, tmp_path)
    assert TensorFiles(base, {"a": base / "model.safetensors"}).shape("a[3]") == [2]


@pytest.mark.parametrize("method", TRAINING.values(), ids=TRAINING)
def test_a_quantised_checkpoint_is_refused_before_training_with_what_to_do(tiny_model: Any, method: Method) -> None:
    model = tiny_model("gpt-oss")
    seen = profiled(model)
    model.config.quantization_config = {"quant_method": "mxfp4"}
    with pytest.raises(MethodError, match=r"is quantised.*dequantize=True.* save it"):
        method.prepare(model, Context(seed=0, profile=seen))


def test_a_checkpoint_that_was_dequantised_in_loading_is_refused_too(tiny_model: Any) -> None:
    """Loading takes the quantisation out of the configuration; the merge would still be into the quantised file."""
    model = tiny_model("gpt-oss")
    dequantize = SimpleNamespace(operations=[SimpleNamespace(hf_quantizer=object())])
    model._weight_conversions = [dequantize]
    with pytest.raises(MethodError, match="is quantised"):
        FullFineTuning().prepare(model, Context(seed=0))


@pytest.mark.parametrize("method", [FullFineTuning(), Lora(rank=2)], ids=["fft", "lora"])
def test_fft_and_lora_train_dense_models_too(tiny_model: Any, tmp_path: Path, method: Method) -> None:
    base = tmp_path / "base"
    tiny_model("dense").save_pretrained(base)
    model, adapter, out = load(base), tmp_path / "adapter", tmp_path / "out"
    adapter.mkdir()
    out.mkdir()
    train(model, method.prepare(model, Context(seed=0)))
    method.export(model, adapter)
    method.merge(base, adapter, out)
    torch.testing.assert_close(logits(load(out)), logits(model), atol=1e-5, rtol=1e-5)


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
