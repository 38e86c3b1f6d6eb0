"""A router's gradient from all experts: routed forward pass, dense backward pass of the gates.

With gates π and experts E_e, a layer of top-k routing gives y = Σ_{e in top-k} π_e E_e(x), from which a gate that is
not chosen gets no gradient. DenseMixer takes the top-k choice for the identity in the backward pass (straight-through):

    ∂L/∂π_e = ⟨∂L/∂y, E_e(x)⟩   for every expert e, chosen or not,

while an expert's own weights get their gradient from the tokens that were sent to it. Source: yaof20/DenseMixer. The
outputs of all experts are made in the backward pass alone, one expert after another, so the forward pass costs what
it did, and memory grows by one [T, H]. Low-rank updates of the experts are in these outputs, without their dropout.

Shapes: T tokens, K experts a token, E experts, hidden size H.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.experts import UPDATES, plug_in, register, selective_experts_forward
from esft_bench.methods.moe.router_scores import SeenRouter
from esft_bench.methods.moe.updates import Factors
from esft_bench.methods.moe.view import MoeLayer

IMPLEMENTATION = "dense-gate"
"""Name under which the forward below is registered with transformers."""
ROUTER = "_seen_router"


def use_dense_gates(model: PreTrainedModel, layers: Mapping[int, MoeLayer]) -> None:
    """Have every layer's gates get their gradient from all experts, in place; `use_fast_experts` goes before.

    `layers` are the model's before anything was wrapped around them. Raises MethodError where a layer has no router of
    a known name, or another experts implementation is not taken.
    """
    for layer in layers.values():
        if layer.router is None:
            raise MethodError(f"no router is found beside `{layer.name}`, whose gates could be trained densely")
        seen = SeenRouter(layer, remembers=True)
        model.get_submodule(layer.router).register_forward_hook(seen.see)
        layer.experts.__dict__[ROUTER] = seen  # no module's parameter, buffer or child
    plug_in(model, layers, IMPLEMENTATION)


def dense_gate_forward(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The forward transformers calls for an experts module: [T, H], [T, K], [T, K] → [T, H]."""
    return with_dense_gates(experts, hidden_states, top_k_index, top_k_weights, selective_experts_forward)


def with_dense_gates(
    experts: Any,
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    forward: Callable[[Any, Tensor, Tensor, Tensor], Tensor],
    products: Callable[[Any, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """A `forward` of experts, with gates that learn densely where `use_dense_gates` has prepared them.

    `products` is what takes the place of `products_of_own` where a process has not all experts.
    """
    if ROUTER not in experts.__dict__ or not (torch.is_grad_enabled() and top_k_weights.requires_grad):
        return forward(experts, hidden_states, top_k_index, top_k_weights)
    routed = forward(experts, hidden_states, top_k_index, top_k_weights.detach())
    gates = _gates(experts.__dict__[ROUTER], top_k_index, top_k_weights)
    told = (gates, hidden_states.detach(), experts, products or products_of_own)
    silent: Tensor = _DenseGate.apply(*told)  # type: ignore[no-untyped-call]
    return routed + silent


def _gates(seen: SeenRouter, index: Tensor, weights: Tensor) -> Tensor:
    """The gates of all experts [T, E], in the graph: the router's scores, in the proportion that the chosen ones have.

    Where a router divides its weights by their sum, so are these; where it scales them, they are scaled.
    """
    scores = seen.scores(index, weights.detach() / seen.layer.scaling)
    seen.output = ()  # it holds the graph, which by the backward pass's hold on the experts would outlive the model
    if scores is None:
        raise MethodError(
            f"the router of `{seen.layer.name}` scores experts in a way that is not known here, so its gates cannot be "
            "trained densely; take the method fft"
        )
    return scores * (weights.double().sum(1, keepdim=True) / scores.gather(1, index).sum(1, keepdim=True))


class _DenseGate(torch.autograd.Function):
    """Adds nothing to the output [T, H], and sends each gate [T, E] the product of the output's gradient and E_e(x)."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, hidden: Tensor, experts: Any, products: Any) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.experts, ctx.products, ctx.dtype = experts, products, gates.dtype
        return torch.zeros_like(hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (hidden,) = ctx.saved_tensors
        with torch.no_grad():
            return ctx.products(ctx.experts, grad, hidden).to(ctx.dtype), None, None, None


def products_of_own(experts: Any, grad: Tensor, hidden: Tensor) -> Tensor:
    """⟨∂L/∂y, E_e(x)⟩ of each of a module's experts, [T, H], [T, H] → [T, E]; one expert's outputs at a time."""
    added = {name: factors() for name, factors in getattr(experts, UPDATES, {}).items()}
    rows = [(grad * _output(experts, added, expert, hidden)).sum(1) for expert in range(experts.num_experts)]
    return torch.stack(rows, 1)


def _output(experts: Any, added: Mapping[str, Factors], expert: int, hidden: Tensor) -> Tensor:
    """What one expert makes of every token: [T, H] → [T, H]; `added` are low-rank updates, by fused parameter."""
    up, activate = ("gate_up_proj", experts._apply_gate) if experts.has_gate else ("up_proj", experts.act_fn)
    inner = activate(_linear(experts, up, added.get(up, ()), expert, hidden))
    return _linear(experts, "down_proj", added.get("down_proj", ()), expert, inner)


def _linear(experts: Any, name: str, added: Factors, expert: int, rows: Tensor) -> Tensor:
    weight = getattr(experts, name)[expert].to(rows.dtype)
    bias = getattr(experts, f"{name}_bias")[expert].to(rows.dtype) if experts.has_bias else None
    out = F.linear(rows, weight.T if experts.is_transposed else weight, bias)
    for left, right in ((left[expert].to(rows.dtype), right[expert].to(rows.dtype)) for left, right in added):
        out = out + (rows @ left @ right if experts.is_transposed else rows @ right.T @ left.T)
    return out


register(IMPLEMENTATION, dense_gate_forward)
