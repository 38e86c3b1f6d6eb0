"""One view of any mixture-of-experts model in transformers 5, by its conventions and without model names.

An experts module holds all routed experts of a layer in the 3-D parameters `gate_up_proj` (`up_proj` where they have no
gate) and `down_proj`, to which biases of the same names may belong, and is called with (hidden_states, top_k_index,
top_k_weights). Its siblings in the MoE block are the router, which is named `gate` or `router`, has a `top_k` and may
multiply its weights by a scaling factor, and the shared experts, which have `shared` in their name; these may also
stand beside the block. A parameter with `attn` or `attention` in its path, and no `norm`, is one of the attention.
"""

import re
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError

ATTENTION = ("attn", "attention")
ROUTER = ("gate", "router")
TOP_K = ("top_k", "num_experts_per_tok", "top_k_experts")
SCALING = ("routed_scaling_factor", "router_scaling_factor", "route_scale")
UP = ("gate_up_proj", "up_proj")
DOWN = "down_proj"
BIAS = "_bias"


@dataclass(frozen=True)
class MoeLayer:
    """The routed experts of one decoder layer.

    Attributes:
        index: number of the decoder layer, from 0, dense layers counted.
        name: path of the experts module in the model, e.g. `model.layers.3.mlp.experts`.
        experts: the experts module: `gate_up_proj` [E, 2I, H] and `down_proj` [E, H, I] (E experts of width I), or both
            transposed.
        num_experts: E.
        top_k: experts a token is sent to.
        scaling: the factor the router multiplies its gate weights by; divide it out to get the paper's gates.
        shared: the shared experts and their gates by path; empty where the model has none.
        router: the path of the router; None where no module of the MoE block has one of its names.
    """

    index: int
    name: str
    experts: nn.Module
    num_experts: int
    top_k: int
    scaling: float
    shared: tuple[tuple[str, nn.Module], ...]
    router: str | None

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the experts' matrices in the experts module, each [E, …, …]."""
        return tuple(name for name in (*UP, DOWN) if isinstance(getattr(self.experts, name, None), nn.Parameter))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of all that an expert consists of in the experts module: the matrices, and their biases if any."""
        biases = (f"{name}{BIAS}" for name in self.weights)
        return self.weights + tuple(name for name in biases if getattr(self.experts, name, None) is not None)


def moe_layers(model: nn.Module) -> dict[int, MoeLayer]:
    """Find the MoE layers of a model, by layer number, in order.

    Raises MethodError, naming what was looked for, where the model has no routed experts of the expected form.
    """
    found = [_layer(model, name, module) for name, module in model.named_modules() if _holds_routed(name, module)]
    if not found:
        raise MethodError(
            f"{type(model).__name__} is not a mixture-of-experts model this can train: no module has the 3-D "
            "parameters `gate_up_proj` (or `up_proj`) and `down_proj` that transformers gives routed experts; take an "
            "MoE model, or the method fft or lora"
        )
    layers = {layer.index: layer for layer in sorted(found, key=lambda layer: layer.index)}
    if len(layers) < len(found):
        raise MethodError(
            f"{type(model).__name__} has two experts modules in one layer, which selection cannot address"
        )
    return layers


def router_parameters(model: nn.Module, layer: MoeLayer) -> list[nn.Parameter]:
    """The parameters of a layer's router. Raises MethodError where none are found."""
    found = list(model.get_submodule(layer.router).parameters()) if layer.router else []
    if not found:
        raise MethodError(
            f"no router is found beside `{layer.name}`: no module with parameters is named {' or '.join(ROUTER)}"
        )
    return found


def attention_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of every attention, its norms left out. Raises MethodError where none are found."""
    found = [
        parameter
        for name, parameter in model.named_parameters()
        if any(part in name for part in ATTENTION) and "norm" not in name
    ]
    if not found:
        raise MethodError(f"{type(model).__name__} has no parameters inside an {' or '.join(ATTENTION)}")
    return found


def check_not_quantised(model: PreTrainedModel) -> None:
    """Raise MethodError for a model of a quantised checkpoint, dequantised in loading or not: it cannot be merged."""
    operations = [
        operation
        for conversion in getattr(model, "_weight_conversions", None) or ()
        for operation in getattr(conversion, "operations", ())
    ]
    quantizers = [getattr(operation, "hf_quantizer", None) for operation in operations]
    if any(quantizers) or getattr(model.config, "quantization_config", None):
        where = model.name_or_path or type(model).__name__
        raise MethodError(
            f"the checkpoint {where} is quantised, so trained weights cannot be merged into it; load it with "
            "transformers' `dequantize=True` in bfloat16, save it, and take the saved folder as the backbone"
        )


def _holds_routed(name: str, module: nn.Module) -> bool:
    """Whether a module holds the routed experts of a layer; shared ones may have the same form."""

    def matrices(name: str) -> bool:
        weight = getattr(module, name, None)
        return isinstance(weight, nn.Parameter) and weight.dim() == 3

    return "shared" not in name.rpartition(".")[2] and any(map(matrices, UP)) and matrices(DOWN)


def _layer(model: nn.Module, name: str, experts: nn.Module) -> MoeLayer:
    number = re.search(r"\.(\d+)\.", name)
    if number is None:
        raise MethodError(f"the experts module `{name}` is in no numbered layer, so no selection can name it")
    parent = name.rpartition(".")[0]
    siblings = [(key, module) for key, module in _children(model, parent) if module is not experts]
    outside = parent.rpartition(".")[0]
    beside = [(f"{parent}.{key}", module) for key, module in siblings]
    beside += [(f"{outside}.{key}", module) for key, module in _children(model, outside)]
    return MoeLayer(
        index=int(number.group(1)),
        name=name,
        experts=experts,
        num_experts=int(experts.get_parameter(DOWN).shape[0]),
        top_k=_top_k(model, name, siblings),
        scaling=_scaling(siblings),
        shared=tuple((path, module) for path, module in beside if "shared" in path.rpartition(".")[2]),
        router=next((f"{parent}.{key}" for key, _ in siblings if key in ROUTER), None),
    )


def _children(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    return list(model.get_submodule(path).named_children())


def _top_k(model: nn.Module, name: str, siblings: list[tuple[str, nn.Module]]) -> int:
    """Read from the router, else from the model's configuration."""
    config = getattr(model, "config", None)
    text = [config.get_text_config()] if config is not None else []  # a part of its own where a model sees, too
    holders = [*(module for _, module in siblings), config, *text]
    for holder in holders:
        for key in TOP_K:
            if isinstance(getattr(holder, key, None), int):
                return int(getattr(holder, key))
    raise MethodError(f"neither a module beside `{name}` nor the configuration has a {' or '.join(TOP_K)}")


def _scaling(siblings: list[tuple[str, nn.Module]]) -> float:
    """The router's factor. One that the block itself has is applied to the experts' output, so not to the weights."""
    factors = [getattr(module, name, None) for _, module in siblings for name in SCALING]
    return next((float(factor) for factor in factors if isinstance(factor, int | float)), 1.0)
