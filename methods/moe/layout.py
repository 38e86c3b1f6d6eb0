"""The official ESFT adapter layout: `expert_cfg.json` and safetensors with one tensor per expert and projection.

Tensor names are those of the hub checkpoint, e.g. `model.layers.3.mlp.experts.7.gate_proj.weight`. Older official
adapters leave out the prefix `model.`; reading accepts both. Source: deepseek-ai/ESFT, esft.py.

Checkpoints of some architectures keep the experts of a layer in one tensor, which the official layout does not know. An
adapter then has its rows, one for each expert, under the name with the expert's id: `….mlp.experts.down_proj[7]`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from esft_bench.methods.atomic import write_json, write_tensors
from esft_bench.methods.checkpoint import tensor_files
from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.experts import bank_of, selected_experts
from esft_bench.methods.moe.view import MoeLayer, moe_layers

CONFIG = "expert_cfg.json"
WEIGHTS = "adapter_model.safetensors"
EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")
"""The expert's id in the name of a tensor of a hub checkpoint; `PLACE` has the layer's number too."""
PLACE = re.compile(r"layers\.(\d+)\..*(?:\.experts\.(\d+)\.|\[(\d+)\]$)")


class AdapterConfig(BaseModel):
    """What an adapter trains: expert ids by layer number, best first, and whether the rest is trained too."""

    model_config = ConfigDict(frozen=True)
    experts: dict[int, list[int]]
    shared_experts: bool = False
    non_expert_modules: bool = False


def read_config(adapter: Path) -> AdapterConfig:
    """Read an adapter's `expert_cfg.json`, or that file itself. Raises MethodError where it is missing or malformed."""
    path = adapter if adapter.is_file() else adapter / CONFIG
    try:
        return AdapterConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise MethodError(f"{adapter} is not an ESFT adapter: it has no {CONFIG}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise MethodError(f"{path}: {where}: {first['msg']}; expected {{'experts': {{layer: [ids]}}, …}}") from error


def base_name(name: str) -> str:
    """The name in the base checkpoint of a tensor of an adapter, old prefix or new."""
    return f"model.{name}" if name.startswith("layers.") else name


def write_adapter(model: PreTrainedModel, folder: Path, shared_experts: bool, non_expert_modules: bool) -> None:
    """Write the selected experts and every other trainable parameter of `model` as an adapter into `folder`."""
    layers = moe_layers(model)
    chosen = {index: ids for index, layer in layers.items() if (ids := selected_experts(layer))}
    tensors = _others(model, layers)
    for index in chosen:
        tensors |= _experts(model, layers[index])
    write_tensors(folder / WEIGHTS, tensors)
    write_json(
        folder / CONFIG,
        AdapterConfig(
            experts=chosen, shared_experts=shared_experts, non_expert_modules=non_expert_modules
        ).model_dump(),
    )


def _experts(model: PreTrainedModel, layer: MoeLayer) -> dict[str, Tensor]:
    """The bank of a layer as per-expert tensors under their names in hub checkpoints, in the model's dtype."""
    fused = {
        f"{layer.name}.{kind}": layer.experts.get_parameter(bank).detach().to(layer.experts.get_parameter(kind).dtype)
        for bank, kind in bank_of(layer).items()
    }
    return per_expert(model, layer, fused)


def per_expert(model: PreTrainedModel, layer: MoeLayer, fused: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split fused tensors, a row for each expert in the layer's bank, into those of an adapter; see `form`."""
    ids = selected_experts(layer)
    tensors: dict[str, Tensor] = {}
    for name, tensor in hub_tensors(model, fused).items():
        if EXPERT.search(name):  # the conversion numbers the rows of the bank 0, 1, …: put the experts' ids there
            tensors[EXPERT.sub(lambda row: str(ids[int(row.group())]), name)] = tensor
        else:
            tensors |= {f"{name}[{expert}]": row for expert, row in zip(ids, tensor, strict=True)}
    return tensors


Form = Literal["single", "fused", "converted"]
"""How checkpoints keep a kind of weights of the experts of a layer:

`single`: a tensor for each expert and projection; `fused`: one tensor, as in memory; `converted`: one tensor that has a
row for each expert, but not as in memory.
"""


def form(model: PreTrainedModel, layer: MoeLayer, kind: str) -> Form:
    """The form in checkpoints of the fused parameter `kind`, found out by converting a small one.

    Raises MethodError for any other form, from which no expert could be told.
    """
    sizes = (8, 6)[: layer.experts.get_parameter(kind).dim() - 1]
    rows = torch.arange(2.0).view(2, *(1 for _ in sizes)) + torch.rand(2, *sizes, generator=torch.Generator()) / 2
    stored = hub_tensors(model, {f"{layer.name}.{kind}": rows})
    if all(EXPERT.search(name) for name in stored):
        return "single"
    if len(stored) == 1:
        (tensor,) = stored.values()
        if tensor.shape == rows.shape and torch.equal(tensor, rows):
            return "fused"
        if len(tensor) == 2 and all(
            torch.equal(row.floor(), row.new_full(row.shape, i)) for i, row in enumerate(tensor)
        ):
            return "converted"
    raise MethodError(
        f"checkpoints of {type(model).__name__} keep `{layer.name}.{kind}` as {', '.join(stored)}, in which single "
        "experts cannot be told; take the method fft or lora"
    )


def check_exportable(model: PreTrainedModel) -> None:
    """Raise MethodError, before anything is trained, where the experts in the banks could not be exported."""
    for layer in moe_layers(model).values():
        for kind in layer.kinds if selected_experts(layer) else ():
            form(model, layer, kind)


def check_complete(adapter: Path) -> None:
    """Raise MethodError where an adapter has no `expert_cfg.json`, or no tensor of an expert that it names there."""
    named = {(layer, expert) for layer, experts in read_config(adapter).experts.items() for expert in experts}
    places = [place for name in tensor_files(adapter).files if (place := PLACE.search(name))]
    found = {(int(layer), int(single or row)) for layer, single, row in (place.groups() for place in places)}
    if missing := sorted(named - found):
        layer, expert = missing[0]
        raise MethodError(
            f"{adapter / CONFIG} names expert {expert} of layer {layer}, of which the adapter has no tensor; "
            "export or fetch it again"
        )


def _others(model: PreTrainedModel, layers: dict[int, MoeLayer]) -> dict[str, Tensor]:
    """Trainable tensors outside the routed experts, under their names in hub checkpoints."""
    routed = tuple(f"{layer.name}." for layer in layers.values())
    return hub_tensors(model, {name: tensor for name, tensor in _trained(model) if not name.startswith(routed)})


def write_trained(model: PreTrainedModel, folder: Path) -> None:
    """Write every trainable parameter of a model whose experts are frozen, and nothing else, into `folder`."""
    write_tensors(folder / WEIGHTS, hub_tensors(model, dict(_trained(model))))


def _trained(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The trainable parameters of a model with their names in it."""
    return ((name, weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad)


def hub_tensors(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a model in memory as hub checkpoints have them: by other names, and experts one by one."""
    return revert_weight_conversion(model, tensors) if tensors else {}
