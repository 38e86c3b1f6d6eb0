"""What is exported, merged into the base, is the trained model, and differs from the base where it should."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GraniteMoeConfig

from methods.all_experts import AllExperts
from methods.attention_router import AttentionRouter
from methods.base import Base
from methods.checkpoint import overlay
from methods.errors import MethodError
from methods.esft import Esft, EsftToken
from methods.esft_lora import EsftLora
from methods.esft_router import EsftRouter
from methods.fft import FullFineTuning
from methods.lora import Lora
from methods.method import Context, Method
from methods.moe.view import moe_layers
from methods.random_experts import RandomExperts
from methods.top_k_experts import TopKExperts
from tests.conftest import COMMON
from tests.methods.helpers import EXPERT_TRAINING, MOE, TRAINING, Outcome, load, logits, profiled, tensors, train

Checkpoints = Callable[[str], Path]


def experts_of(config: Path) -> dict[str, list[int]]:
    experts: dict[str, list[int]] = json.loads(config.read_text())["experts"]
    return experts


@pytest.mark.parametrize("architecture", MOE)
@pytest.mark.parametrize("method", TRAINING.values(), ids=TRAINING)
def test_the_merged_checkpoint_is_the_trained_model(
    tiny_checkpoint: Checkpoints, architecture: str, method: Method
) -> None:
    base = tiny_checkpoint(architecture)
    outcome = Outcome(method, base)
    assert (logits(outcome.model) - logits(load(base))).abs().max() > 1e-2
    torch.testing.assert_close(logits(load(outcome.out)), logits(outcome.model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", EXPERT_TRAINING.values(), ids=EXPERT_TRAINING)
@pytest.mark.parametrize("architecture", MOE)
def test_expert_training_changes_the_selected_experts_and_not_a_byte_more(
    tiny_checkpoint: Checkpoints, architecture: str, method: Method
) -> None:
    outcome = Outcome(method, tiny_checkpoint(architecture))
    chosen = experts_of(outcome.adapter / "expert_cfg.json")
    expected = {
        name
        for name in tensors(outcome.base)
        for layer, ids in chosen.items()
        for expert in ids
        if f".layers.{layer}." in name and f".experts.{expert}." in name
    }
    assert len(expected) == 3 * sum(map(len, chosen.values())) > 0
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


@pytest.mark.parametrize("architecture", ["deepseek-v2", "qwen2-moe"])
def test_lora_on_experts_changes_every_expert_and_no_router(tiny_checkpoint: Checkpoints, architecture: str) -> None:
    outcome = Outcome(Lora(rank=2, experts=True), tiny_checkpoint(architecture))
    changed = outcome.changed()
    routed = {name for name in tensors(outcome.base) if ".experts." in name or "shared_expert" in name}
    routers = {name for name in tensors(outcome.base) if "gate.weight" in name}
    assert routed - routers <= changed
    assert routers
    assert not routers & changed


def test_lora_on_attention_changes_attention_alone_and_loads_in_plain_peft(tiny_checkpoint: Checkpoints) -> None:
    outcome = Outcome(Lora(rank=2), tiny_checkpoint("deepseek-v2"))
    changed = outcome.changed()
    assert changed == {name for name in tensors(outcome.base) if ".self_attn." in name and "norm" not in name}
    plain = PeftModel.from_pretrained(load(outcome.base), outcome.adapter).eval()
    torch.testing.assert_close(logits(plain), logits(outcome.model))


@pytest.mark.parametrize("architecture", MOE)
def test_attention_and_routers_change_and_not_a_byte_more(tiny_checkpoint: Checkpoints, architecture: str) -> None:
    """Every projection of every attention, dense layers counted, and the routers; experts, embeddings, norms stay."""
    outcome = Outcome(AttentionRouter(), tiny_checkpoint(architecture))
    names = set(tensors(outcome.base))
    attention = {name for name in names if ".self_attn." in name and "norm" not in name}
    routers = {name for name in names if name.endswith(".gate.weight")}
    assert len({name.split(".")[2] for name in attention}) == 3
    assert len(routers) == len(moe_layers(outcome.model))
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
    assert {name for name in changed if ".experts." not in name} == {
        name for name in tensors(outcome.base) if name.endswith(".gate.weight") and int(name.split(".")[2]) in layers
    }
    assert len([name for name in changed if ".experts." in name]) == 3 * 2 * len(layers)
    assert changed == set(tensors(outcome.adapter))


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


def test_merged_tensors_take_the_dtype_of_the_base(tmp_path: Path) -> None:
    base, changed, out = (tmp_path / name for name in ("base", "changed", "out"))
    for folder in (base, changed, out):
        folder.mkdir()
    save_file({"a": torch.zeros(2, dtype=torch.bfloat16), "b": torch.ones(2)}, base / "model.safetensors")
    save_file({"a": torch.tensor([1.0, 2.0])}, changed / "adapter_model.safetensors")
    overlay(base, changed, out)
    merged = load_file(out / "model.safetensors")
    assert merged["a"].dtype == torch.bfloat16
    assert merged["a"].tolist() == [1.0, 2.0]
    assert torch.equal(merged["b"], torch.ones(2))


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


def test_an_adapter_that_lacks_an_expert_it_names_is_refused(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    outcome = Outcome(TopKExperts(count=2), tiny_checkpoint("olmoe"))
    config = outcome.adapter / "expert_cfg.json"
    chosen = experts_of(config)
    missing = next(expert for expert in range(8) if expert not in chosen["1"])
    config.write_text(json.dumps({"experts": chosen | {"1": [*chosen["1"], missing]}}))
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(MethodError, match=f"names expert {missing} of layer 1, of which the adapter has no tensor"):
        EsftToken().merge(outcome.base, outcome.adapter, again)
    assert list(again.iterdir()) == []


@pytest.mark.parametrize("method", [EsftToken(), AllExperts(), EsftLora()], ids=["esft", "all-experts", "esft-lora"])
def test_experts_that_checkpoints_keep_fused_are_refused_before_training(method: Method) -> None:
    """GraniteMoE's checkpoints hold all experts of a layer in one tensor, under another name than the model's."""
    settings = COMMON | {"num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 16}
    model = AutoModelForCausalLM.from_config(GraniteMoeConfig(**settings)).eval()
    with pytest.raises(MethodError, match="checkpoints of GraniteMoeForCausalLM keep experts fused"):
        method.prepare(model, Context(seed=0, profile=profiled(model)))


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
