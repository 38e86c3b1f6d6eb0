"""Adapters in ESFT's layout that others wrote: whole, of float numbers, and nothing in them that they do not name."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from esft_bench.methods.adapter import Adapter
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft_router import EsftRouter
from tests.methods.helpers import Outcome, tensors

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
EXPERT = "model.layers.1.mlp.experts.3"


@pytest.fixture
def base(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("deepseek-v2")


def write(base: Path, change: Change, **config: Any) -> Adapter:
    """An adapter of expert 3 of layer 1, changed, and its configuration."""
    folder = base.parent / "adapter"
    folder.mkdir()
    own = {name: tensor + 1 for name, tensor in tensors(base).items() if name.startswith(f"{EXPERT}.")}
    save_file(change(own), folder / "adapter_model.safetensors")
    (folder / "expert_cfg.json").write_text(json.dumps({"experts": {"1": [3]}} | config))
    return Adapter(path=str(folder))


def each(function: Callable[[Tensor], Tensor]) -> Change:
    return lambda own: {name: function(tensor) for name, tensor in own.items()}


def also(name: str, *shape: int) -> Change:
    return lambda own: own | {name: torch.ones(shape)}


CASES: dict[str, tuple[Change, str]] = {
    "half an expert": (lambda own: {f"{EXPERT}.up_proj.weight": own[f"{EXPERT}.up_proj.weight"]}, "no `.*down_proj"),
    "an expert not named": (also("model.layers.2.mlp.experts.5.up_proj.weight", 16, 32), "expert 5 of layer 2, which"),
    "a router": (also("model.layers.1.mlp.gate.weight", 8, 32), r"changes `.*gate\.weight`, and its expert_cfg"),
    "a shared expert": (also("model.layers.1.mlp.shared_experts.up_proj.weight", 32, 32), "changes `.*shared_experts"),
    "a layer that is not there": (also("model.layers.9.mlp.experts.3.up_proj.weight", 16, 32), "does not have"),
    "not a number": (each(lambda tensor: tensor * math.nan), "not finite"),
    "infinity": (each(lambda tensor: tensor / 0), "not finite"),
    "integers": (each(lambda tensor: tensor.to(torch.int32)), "of type I32, quantised or no weight"),
    "fp8 without scales": (each(lambda tensor: tensor.to(torch.float8_e5m2)), "of type F8_E5M2, quantised"),
}


@pytest.mark.parametrize(("change", "message"), CASES.values(), ids=CASES)
def test_what_is_not_whole_not_named_or_no_number_is_refused_before_anything_is_computed(
    base: Path, change: Change, message: str
) -> None:
    with pytest.raises(MethodError, match=message):
        write(base, change).source(base)


@pytest.mark.parametrize(("expert", "message"), [(4, "of which the adapter has no `"), (8, "which .* does not have")])
def test_an_expert_that_is_named_must_be_there(base: Path, expert: int, message: str) -> None:
    adapter = write(base, lambda own: own, experts={"1": [3, expert]})
    with pytest.raises(MethodError, match=rf"names expert {expert} of layer 1, {message}"):
        adapter.source(base)


@pytest.mark.parametrize(
    ("name", "shape", "option"),
    [
        ("model.layers.1.mlp.gate.weight", (8, 32), {"non_expert_modules": True}),
        ("model.layers.1.mlp.shared_experts.up_proj.weight", (32, 32), {"shared_experts": True}),
        ("model.layers.1.mlp.gate.weight", (8, 32), {"other_tensors": ["model.layers.1.mlp.gate.weight"]}),
    ],
)
def test_what_an_option_names_is_taken(
    base: Path, name: str, shape: tuple[int, int], option: dict[str, object]
) -> None:
    adapter, out = write(base, also(name, *shape), **option), base.parent / "out"
    out.mkdir()
    adapter.source(base)
    adapter.merge(base, base.parent / "adapter", out)
    assert torch.equal(tensors(out)[name], torch.ones(shape))


def test_half_an_expert_is_found_where_checkpoints_keep_a_layers_experts_in_one_tensor(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    base = tiny_checkpoint("gpt-oss")
    folder = base.parent / "adapter"
    folder.mkdir()
    rows = {f"{name}[3]": tensor[3] for name, tensor in tensors(base).items() if ".1.mlp.experts." in name}
    assert len(rows) == 4
    del rows["model.layers.1.mlp.experts.down_proj_bias[3]"]
    save_file({name: row.contiguous() for name, row in rows.items()}, folder / "adapter_model.safetensors")
    (folder / "expert_cfg.json").write_text('{"experts": {"1": [3]}}')
    with pytest.raises(MethodError, match=r"no `model\.layers\.1\.mlp\.experts\.down_proj_bias\[3\]`"):
        Adapter(path=str(folder)).source(base)


def test_an_adapter_of_experts_and_routers_that_we_wrote_is_taken_as_a_row(base: Path) -> None:
    outcome = Outcome(EsftRouter(), base)
    assert Adapter(path=str(outcome.adapter)).source(base) == outcome.adapter


def test_a_layout_is_refused_where_nothing_is_packed(base: Path) -> None:
    adapter = write(base, lambda own: own).model_copy(update={"layout": "expert-major"})
    with pytest.raises(MethodError, match="`layout` is for LoRA adapters"):
        adapter.source(base)
