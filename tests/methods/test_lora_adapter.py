"""LoRA adapters as other libraries write them: on some experts, with dropout, packed this way or that, damaged."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from esft_bench.methods.adapter import Adapter
from esft_bench.methods.errors import MethodError
from tests.conftest import build
from tests.methods.helpers import load, tensors

ALL = ("q_proj", "gate_proj", "up_proj", "down_proj")
Write = Callable[..., Path]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    build("deepseek-v2").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def write(tmp_path: Path, base: Path) -> Write:
    """`write(experts, **config)`: an adapter of every matrix in ALL, but of the routed experts only those."""

    def adapter(experts: Iterable[int] = (1, 6), **config: Any) -> Path:
        folder, factors = tmp_path / "adapter", {}
        folder.mkdir()
        generator = torch.Generator().manual_seed(0)
        for name, tensor in tensors(base).items():
            stem = name.removesuffix(".weight")
            if stem.endswith(ALL) and (".experts." not in stem or any(f".experts.{e}." in stem for e in experts)):
                shapes = {"A": (2, tensor.shape[1]), "B": (tensor.shape[0], 2)}
                for which, shape in shapes.items():
                    value = torch.randn(shape, generator=generator) / 4
                    factors[f"base_model.model.{stem}.lora_{which}.weight"] = value
        save_file(factors, folder / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ALL} | config
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        return folder

    return adapter


def merged(adapter: Path, base: Path, **options: Any) -> dict[str, Tensor]:
    """The tensors of base and adapter, taken as a row of a suite takes them."""
    method, out = (
        Adapter(path=str(adapter), **options),
        adapter.parent / f"merged-{len(list(adapter.parent.iterdir()))}",
    )
    method.source(base)
    out.mkdir()
    method.merge(base, adapter, out)
    load(out)
    return tensors(out)


@pytest.mark.parametrize(
    ("config", "scaling"),
    [({}, 1.5), ({"lora_dropout": 0.05}, 1.5), ({"use_rslora": True}, 3 / math.sqrt(2))],
    ids=["plain", "dropout", "rslora"],
)
def test_updates_of_some_experts_are_added_to_those_and_to_nothing_else(
    base: Path, write: Write, config: dict[str, Any], scaling: float
) -> None:
    adapter = write(**config)
    before, after, factors = tensors(base), merged(adapter, base), tensors(adapter)
    for name, tensor in before.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        a, b = factors.get(f"{stem}A.weight"), factors.get(f"{stem}B.weight")
        if a is None or b is None:
            assert torch.equal(after[name], tensor), name
        else:
            torch.testing.assert_close(after[name], tensor + scaling * b @ a)
    assert sum(".experts." in name for name in factors) == 2 * 2 * 2 * 3  # layers, experts, factors, projections


def test_a_scaling_of_single_modules_is_theirs(base: Path, write: Write) -> None:
    adapter = write(alpha_pattern={"q_proj": 10})
    name = "model.layers.0.self_attn.q_proj"
    a, b = (tensors(adapter)[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
    found = merged(adapter, base)[f"{name}.weight"]
    torch.testing.assert_close(found, tensors(base)[f"{name}.weight"] + 5 * b @ a)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor * math.nan, "numbers that are not finite"),
        (lambda tensor: (tensor * 100).to(torch.int8), "of type I8, quantised"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "of type F8_E4M3, quantised"),
        (lambda tensor: torch.cat([tensor, tensor]), "belongs to another backbone|factors of ranks"),
        (None, r"peft's layout\) has no lora_"),
    ],
    ids=["nan", "int8", "fp8", "shape", "half a pair"],
)
@pytest.mark.parametrize("which", ["A", "B"])
def test_damaged_updates_are_refused_before_anything_is_computed(
    base: Path, write: Write, change: Callable[[Tensor], Tensor] | None, message: str, which: str
) -> None:
    adapter = write()
    path = adapter / "adapter_model.safetensors"
    factors = load_file(path)
    name = f"base_model.model.model.layers.1.mlp.experts.6.up_proj.lora_{which}.weight"
    old = factors.pop(name)
    save_file(factors | ({name: change(old)} if change else {}), path)
    with pytest.raises(MethodError, match=message):
        Adapter(path=str(adapter)).source(base)


@pytest.fixture
def packed(tmp_path: Path, base: Path) -> Path:
    """An adapter of all experts of each layer in one pair of factors, by peft itself."""
    torch.manual_seed(0)
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    model = get_peft_model(load(base), LoraConfig(r=3, lora_alpha=3, target_parameters=names, target_modules=[]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(tmp_path / "packed")
    return tmp_path / "packed"


def test_packed_experts_are_merged_in_either_layout_if_it_is_named(base: Path, packed: Path) -> None:
    expected = merged(packed, base)
    path = packed / "adapter_model.safetensors"
    factors = load_file(path)
    for name, tensor in factors.items():
        if "lora_B" in name:  # peft has expert e's column of rank r at r · 8 + e
            columns = [tensor[:, rank * 8 + expert] for expert in range(8) for rank in range(tensor.shape[1] // 8)]
            factors[name] = torch.stack(columns, dim=1)
    save_file(factors, path)
    wrong, right = merged(packed, base), merged(packed, base, layout="expert-major")
    assert all(torch.equal(right[name], tensor) for name, tensor in expected.items())
    assert not all(torch.equal(wrong[name], tensor) for name, tensor in expected.items())


def test_packed_experts_with_dropout_are_merged(base: Path, packed: Path) -> None:
    expected = merged(packed, base)
    path = packed / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_dropout": 0.1}))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged(packed, base).items())


def test_a_layout_is_refused_where_no_experts_are_packed(base: Path, write: Write) -> None:
    with pytest.raises(MethodError, match="packs no experts in one tensor"):
        Adapter(path=str(write()), layout="expert-major").source(base)
