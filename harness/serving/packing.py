"""Layers that vLLM packs for its kernels: some experts of one, and the proof that what is served is what was loaded.

Runs inside vLLM, as `loads.py` does.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed.parallel_state import get_tensor_model_parallel_world_size, model_parallel_is_initialized
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.platforms import current_platform

from esft_bench.harness.serving.loads import Load

Packed = dict[str, Tensor]
"""Parameters by name, each with a row for each of some experts."""


def by_experts(layer: nn.Module) -> bool:
    """Whether a layer's experts may be packed one by one: unquantised, and all of them in this process."""
    method = getattr(layer, "quant_method", None)
    return isinstance(method, UnquantizedFusedMoEMethod) and getattr(layer, "expert_map", None) is None


def packed(layer: nn.Module, loads: Sequence[Load], experts: Sequence[int]) -> Packed:
    """Some experts of a layer, in this order, as vLLM packs a layer that has no others.

    `loads` holds all that these experts consist of.
    """
    few: Any = copy.copy(layer)
    few.__dict__["_parameters"] = dict(layer._parameters)
    kinds = sorted({load.parameter for load in loads})
    for kind in kinds:
        few._parameters[kind] = _zeros(layer, kind, len(experts))
    for load in loads:
        if load.expert in experts:
            load.into(few.get_parameter(load.parameter), experts.index(load.expert))
    with _not_packed_yet(layer):
        few.quant_method.process_weights_after_loading(few)
    return {kind: few.get_parameter(kind).data for kind in kinds}


@contextmanager
def _not_packed_yet(layer: nn.Module) -> Iterator[None]:
    """Have vLLM pack a layer as it did when it started; the kernel that it has stays the one it has."""
    method: Any = layer.quant_method
    kept = method.moe_kernel, method.moe_quant_config
    method.moe_kernel = None
    try:
        yield
    finally:
        method.moe_kernel, method.moe_quant_config = kept


def _zeros(layer: nn.Module, kind: str, rows: int | None = None) -> Tensor:
    """Zeros for one of a layer's parameters as it is before packing, or for one with other rows."""
    info = get_layerwise_info(layer)
    before = info.restore_metadata[0].get(kind, layer._parameters.get(kind))
    assert before is not None
    shape = before.shape if rows is None else (rows, *before.shape[1:])
    zeros = torch.zeros(shape, dtype=before.dtype, device=info.restore_device)
    zeros.__class__ = type(before)  # as vLLM does: its loaders are methods of its own kinds of parameters
    zeros.__dict__ = before.__dict__.copy()
    return zeros


def _filled(layer: nn.Module, kind: str, loads: Iterable[Load]) -> Tensor:
    """One of a layer's parameters as it is before packing, with what was loaded in it."""
    weight = _zeros(layer, kind)
    for load in loads:
        load.into(weight)
    return weight


def served(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's parameters as they are served, within a reload too."""
    kernel = get_layerwise_info(layer).kernel_tensors
    parameters = kernel[0] if kernel else dict(layer.named_parameters(recurse=False))
    return {name: parameter.detach() for name, parameter in parameters.items()}


def forget(layer: nn.Module) -> None:
    """Make every matrix that a layer serves NaN, and have its experts packed again when they are loaded.

    vLLM's CPU build skips that where a kernel exists already, which leaves the experts silently wrong.
    """
    for weight in served(layer).values():
        if weight.is_floating_point() and weight.dim() > 1:
            weight.data.fill_(float("nan"))
    method: Any = getattr(layer, "quant_method", None)
    if current_platform.is_cpu() and getattr(method, "moe_kernel", None) is not None:
        method.moe_kernel = None


def proven(layer: nn.Module, loads: Sequence[Load]) -> bool:
    """Whether a layer serves the numbers that were loaded into it, no others and none of those before.

    Packing moves numbers about and pads with zeros, so their sum and sum of squares stay. Of a linear layer whose
    packed weights cannot be seen, what it makes of random inputs tells. Where several processes share the model,
    what was loaded is this one's slice, as vLLM's own loaders cut it.
    """
    whole = not model_parallel_is_initialized() or get_tensor_model_parallel_world_size() == 1
    for kind in {load.parameter for load in loads}:
        into = [load for load in loads if load.parameter == kind]
        weight = served(layer)[kind]
        if not weight.numel():
            if not _computes(layer, kind, into):
                return False
        elif not _same_numbers(weight, [load.tensor for load in into] if whole else [_filled(layer, kind, into)]):
            return False
    return True


def _same_numbers(weight: Tensor, tensors: Iterable[Tensor]) -> bool:
    total, squares = _digest(weight)
    parts = [_digest(tensor.to(weight.dtype)) for tensor in tensors]
    size = math.sqrt(weight.numel() * squares)  # no sum of absolute values is larger
    return (
        math.isclose(total, sum(part[0] for part in parts), rel_tol=1e-9, abs_tol=1e-9 * size)
        and math.isclose(squares, sum(part[1] for part in parts), rel_tol=1e-9)
    )  # fmt: skip


def _digest(tensor: Tensor) -> tuple[float, float]:
    """Sum and sum of squares, in float64."""
    total = float(tensor.sum(dtype=torch.float64))
    return total, float(torch.linalg.vector_norm(tensor.flatten(), dtype=torch.float64)) ** 2


def _computes(layer: nn.Module, kind: str, loads: Sequence[Load]) -> bool:
    """Whether a linear layer gives what its weight, put together from what was loaded, gives."""
    method: Any = getattr(layer, "quant_method", None)
    if not isinstance(method, LinearMethodBase):
        return False
    weight = _filled(layer, kind, loads)
    inputs = torch.randn(4, weight.shape[1], dtype=weight.dtype, device=weight.device)
    expected = nn.functional.linear(inputs, weight)
    difference = (method.apply(layer, inputs) - expected).abs().max()
    return bool(difference <= torch.finfo(weight.dtype).eps ** 0.5 * expected.abs().max())  # rounding; NaN is not <=
