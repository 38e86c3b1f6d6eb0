"""Which experts of a prepared model may be kept in FP8 while it is trained."""

import torch
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.experts import IMPLEMENTATION
from esft_bench.methods.moe.fp8 import pack
from esft_bench.methods.moe.view import MoeLayer, moe_layers


def pack_frozen(model: PreTrainedModel, device: torch.device) -> None:
    """Keep a prepared model's routed experts in FP8, on a device, in place, where they are frozen and run by banks.

    Raises MethodError where they hold other numbers.
    """
    for layer in _frozen(model):
        for name in layer.weights:
            pack(layer.experts, name, device)


def _frozen(model: PreTrainedModel) -> list[MoeLayer]:
    try:
        layers = moe_layers(model).values()
    except MethodError:
        return []
    return [
        layer
        for layer in layers
        if getattr(getattr(layer.experts, "config", None), "_experts_implementation", None) == IMPLEMENTATION
        and not any(layer.experts.get_parameter(name).requires_grad for name in layer.weights)
    ]
