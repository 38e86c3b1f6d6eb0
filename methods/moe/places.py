"""Where the tensors of a hub checkpoint lie in a model in memory, to write some of them without loading the others."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.hub import hub_tensors
from esft_bench.methods.moe.layout import EXPERT
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.methods.tensor_files import TensorFiles

ADDED = re.compile(r"\.(base_layer|original_module|modules_to_save\.[^.]+)|(?<=\.)parametrizations\.|\.original$")
"""What peft and torch's parametrizations put into the names of what was there before."""


def places(model: PreTrainedModel) -> dict[str, Tensor]:
    """A view of the model's memory for each tensor of its hub checkpoint, by name.

    Writing to a view changes the model. What a checkpoint keeps otherwise than memory in more than names, slices and
    the order of dimensions has no view and is left out.
    """
    state: dict[str, Tensor] = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    found: dict[str, Tensor] = {}
    with suppress(MethodError):  # a dense model has no such layers
        for layer in moe_layers(model).values():
            for kind in layer.kinds:
                found |= _of_experts(model, layer, kind, state.pop(f"{layer.name}.{kind}"))
    memory = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    stored = hub_tensors(model, state)
    return found | {name: view for name, view in stored.items() if view.untyped_storage().data_ptr() in memory}


def _of_experts(model: PreTrainedModel, layer: MoeLayer, kind: str, weight: Tensor) -> dict[str, Tensor]:
    """The views of a fused parameter [E, …]: where an expert's numbers lie is seen by converting their indices."""
    indices = torch.arange(weight[0].numel()).view(1, *weight.shape[1:])
    found: dict[str, Tensor] = {}
    for name, order in hub_tensors(model, {_plain(f"{layer.name}.{kind}"): indices}).items():
        single = EXPERT.search(name) is not None
        layout = _affine(order if single else order[0])
        if layout is None or not (single or len(order) == 1):
            continue
        offset, strides = layout
        start = weight.storage_offset() + offset
        if single:
            for expert in range(len(weight)):
                view = weight.as_strided(order.shape, strides, start + expert * weight.stride(0))
                found[EXPERT.sub(str(expert), name)] = view
        else:
            found[name] = weight.as_strided((len(weight), *order.shape[1:]), (weight.stride(0), *strides), start)
    return found


def read_experts(model: PreTrainedModel, layer: MoeLayer, ids: Sequence[int], files: TensorFiles) -> None:
    """Read the experts `ids` of a layer, and no others, into the rows of its fused parameters, in that order.

    Raises MethodError where checkpoints of the model keep experts otherwise than memory, or lack one.
    """
    for kind in layer.kinds:
        weight = layer.experts.get_parameter(kind).detach()
        views = _of_experts(model, layer, kind, weight)
        if sum(view.numel() for view in views.values()) != weight.numel():
            raise _kept_otherwise(model, f"{layer.name}.{kind}")
        for name, view in views.items():
            if (row := EXPERT.search(name)) is not None:
                _read_into(view, EXPERT.sub(str(ids[int(row.group())]), name), files)
            else:
                for expert, part in zip(ids, view, strict=True):
                    _read_into(part, f"{name}[{expert}]", files)


def read_tensor(model: PreTrainedModel, name: str, files: TensorFiles) -> Tensor:
    """Read a parameter or buffer of a model, whatever device it is on, into main memory, in its own type.

    Raises MethodError where checkpoints of the model keep it otherwise than memory, or lack it.
    """
    like = model.get_parameter_or_buffer(name)
    room = torch.empty(like.shape, dtype=like.dtype)
    views = hub_tensors(model, {_plain(name): room})
    memory = room.untyped_storage().data_ptr()
    if sum(view.numel() for view in views.values() if view.untyped_storage().data_ptr() == memory) != room.numel():
        raise _kept_otherwise(model, name)
    for stored, view in views.items():
        _read_into(view, stored, files)
    return room


def read_into(model: PreTrainedModel, names: Iterable[str], files: TensorFiles) -> None:
    """Give parameters and buffers of a model that have no values those of a checkpoint, in main memory.

    Raises MethodError as `read_tensor` does.
    """
    for name in names:
        there = model.get_parameter_or_buffer(name)
        if not there.is_meta:
            continue
        module, _, key = name.rpartition(".")
        held, value = model.get_submodule(module), read_tensor(model, name, files)
        if isinstance(there, nn.Parameter):
            held._parameters[key] = nn.Parameter(value, there.requires_grad)
        else:
            held._buffers[key] = value


def _read_into(view: Tensor, name: str, files: TensorFiles) -> None:
    if not files.holds(name):
        raise MethodError(f"{files.folder} has no weights for `{name}`; fetch or write the checkpoint again")
    view.copy_(files.read(name))


def _plain(name: str) -> str:
    """The name that a parameter or buffer had before peft wrapped its layer or copied it, or it was parametrized."""
    return ADDED.sub("", name)


def _kept_otherwise(model: PreTrainedModel, name: str) -> MethodError:
    return MethodError(
        f"checkpoints of {type(model).__name__} keep `{name}` otherwise than memory, so it cannot be read apart from "
        "others; leave out training.expert_parallel"
    )


def _affine(order: Tensor) -> tuple[int, list[int]] | None:
    """Offset and strides by which a tensor of indices runs through memory; None where it does not run evenly."""
    offset, strides = int(order.flatten()[0]), []
    expected = torch.full_like(order, offset)
    for dimension, size in enumerate(order.shape):
        at = [0] * order.dim()
        at[dimension] = min(1, size - 1)
        stride = int(order[tuple(at)]) - offset
        strides.append(stride)
        shape = [size if other == dimension else 1 for other in range(order.dim())]
        expected += (torch.arange(size) * stride).view(shape)
    return (offset, strides) if torch.equal(order, expected) else None
