"""Writing trained weights as hub checkpoints have them, the experts in the official ESFT adapter layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.atomic import write_tensors
from esft_bench.methods.errors import MethodError
from esft_bench.methods.hub import WEIGHTS, hub_tensors, trained_tensors, without_weights, write_tied
from esft_bench.methods.moe.changing import left_experts
from esft_bench.methods.moe.experts import bank_of, bank_weights, selected_experts
from esft_bench.methods.moe.fp8 import unpacked_type
from esft_bench.methods.moe.layout import EXPERT, AdapterConfig, write_config
from esft_bench.methods.moe.view import MoeLayer, moe_layers


def write_adapter(model: PreTrainedModel, folder: Path, config: AdapterConfig, others: Mapping[str, Tensor]) -> None:
    """Write the experts that were trained, every other trainable parameter of `model`, and `others`, as an adapter.

    `config` has the options that the adapter was trained with; experts and names of other tensors are filled in.
    """
    layers = moe_layers(model)
    chosen = {index: ids for index, layer in layers.items() if (ids := _trained_experts(layer))}
    routed = tuple(f"{layer.name}." for layer in layers.values())
    beside = {name: tensor for name, tensor in trained_tensors(model).items() if not name.startswith(routed)}
    tensors = {**others, **hub_tensors(model, beside)}
    filled = config.model_copy(update={"experts": chosen})
    write_config(folder, filled.model_copy(update={"other_tensors": sorted(filter(filled.leaves_out, tensors))}))
    for index in chosen:
        tensors |= _experts(model, layers[index])
    write_tensors(folder / WEIGHTS, tensors)
    write_tied(model, folder)


def _trained_experts(layer: MoeLayer) -> list[int]:
    """The experts in the bank, then those that were there before."""
    return selected_experts(layer) + left_experts(layer)


def _experts(model: PreTrainedModel, layer: MoeLayer) -> dict[str, Tensor]:
    """The trained experts of a layer as tensors of their own under their names in hub checkpoints, in its dtype."""
    fused: dict[str, Tensor] = {}
    for bank, kind in bank_of(layer).items():
        whole, trained = layer.experts.get_parameter(kind).detach(), bank_weights(layer.experts, bank)
        rows = [] if trained is None else [trained.detach().to(unpacked_type(layer.experts, kind))]
        left = [whole[ids]] if (ids := left_experts(layer)) else []
        fused[f"{layer.name}.{kind}"] = torch.cat([*rows, *left])
    return per_expert(model, layer, fused)


def per_expert(model: PreTrainedModel, layer: MoeLayer, fused: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split fused tensors, a row for each of the layer's trained experts, into those of an adapter; see `form`."""
    ids = _trained_experts(layer)
    tensors: dict[str, Tensor] = {}
    for name, tensor in hub_tensors(model, fused).items():
        if EXPERT.search(name):  # the conversion numbers the rows of the bank 0, 1, …: put the experts' ids there
            tensors[EXPERT.sub(lambda row: str(ids[int(row.group())]), name)] = tensor
        else:
            tensors |= {f"{name}[{expert}]": row for expert, row in zip(ids, tensor, strict=True)}
    return tensors


def parts_of_experts(checkpoint: Path) -> dict[tuple[int, int], set[str]]:
    """Names in an adapter of the parts of each expert (layer, id), where a checkpoint keeps a layer's in one tensor."""
    model = without_weights(checkpoint)
    parts: dict[tuple[int, int], set[str]] = {}
    for index, layer in moe_layers(model).items():
        stored = [
            name for kind in layer.kinds for name in hub_tensors(model, {f"{layer.name}.{kind}": _small(layer, kind)})
        ]
        for expert in range(layer.num_experts):
            parts[index, expert] = {f"{name}[{expert}]" for name in stored}
    return parts


def _small(layer: MoeLayer, kind: str) -> Tensor:
    """Two rows of the dimensions of a fused parameter; the numbers of row i are between i and i + 1/2."""
    sizes = (8, 6)[: layer.experts.get_parameter(kind).dim() - 1]
    return torch.arange(2.0).view(2, *(1 for _ in sizes)) + torch.rand(2, *sizes, generator=torch.Generator()) / 2


Form = Literal["single", "fused", "converted"]
"""How checkpoints keep a kind of weights of the experts of a layer:

`single`: a tensor for each expert and projection; `fused`: one tensor, as in memory; `converted`: one tensor that has a
row for each expert, but not as in memory.
"""


def form(model: PreTrainedModel, layer: MoeLayer, kind: str) -> Form:
    """The form in checkpoints of the fused parameter `kind`, found out by converting a small one.

    Raises MethodError for any other form, from which no expert could be told.
    """
    rows = _small(layer, kind)
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
