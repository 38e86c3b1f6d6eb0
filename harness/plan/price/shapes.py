"""How experts and attention run where there are shapes alone."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.dense_gate import ROUTER, products_of_own, with_dense_gates
from esft_bench.methods.moe.experts import register, run_experts, selected_experts
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.rows import sort_rows
from esft_bench.methods.moe.view import MoeLayer, moe_layers

IMPLEMENTATION = "shapes-only"
"""Name under which the experts' forward below is registered with transformers."""
FUSED = "fused-on-shapes"
"""Name of the attention below."""
SHARE = "selected_share"
"""Where an experts module keeps the share of rows assumed to go to its selected experts."""
SENT = "rows_are_sent"
"""Where it keeps whether rows go to other processes, and others' rows come."""


def run_on_shapes(model: PreTrainedModel, seen: Profile | None, apart: int) -> None:
    """Let the experts run by the forward below; experts that cannot, and dense models, keep what they have."""
    layers = _layers(model)
    for row, layer in enumerate(layers.values()):
        if router := layer.experts.__dict__.get(ROUTER):
            router.explains = 0  # which way scores are made changes no shape
        setattr(layer.experts, SHARE, _share(seen, row, selected_experts(layer)))
        setattr(layer.experts, SENT, apart > 1)
    if any(hasattr(layer.experts, "selected_experts") for layer in layers.values()):
        model.set_experts_implementation(IMPLEMENTATION)


def _layers(model: PreTrainedModel) -> dict[int, MoeLayer]:
    try:
        return moe_layers(model)
    except MethodError:
        return {}


def _share(seen: Profile | None, row: int, selected: list[int]) -> float:
    """The share of a layer's token-expert pairs that its selected experts get; without a profile, all are selected."""
    if seen is None:
        return 1.0
    counts = seen.token_counts[row]
    return float(counts[selected].sum() / counts.sum())


def _shapes_only_forward(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The selective experts' forward with an assumed split, since no data says how many rows are selected."""
    return with_dense_gates(experts, hidden_states, top_k_index, top_k_weights, _on_shapes, _products)


def _products(experts: Any, grad: Tensor, hidden: Tensor) -> Tensor:
    """What gates learn from: a device's own experts meet the tokens of as many devices as share all experts."""
    devices = experts.__dict__[ROUTER].layer.num_experts // experts.num_experts
    made = products_of_own(experts, grad.repeat(devices, 1), hidden.repeat(devices, 1))
    return made.view(devices, len(hidden), -1).transpose(0, 1).flatten(1)


def _on_shapes(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    if not getattr(experts, SENT):
        return _run(experts, hidden_states, top_k_index, top_k_weights)
    # As many rows come as go: copies for the copies that are sent, there and back.
    count = top_k_index.shape[1]
    sent = hidden_states.repeat_interleave(count, 0)
    out = _run(experts, sent.clone(), top_k_index.reshape(-1, 1), torch.ones_like(top_k_weights).reshape(-1, 1))
    back = out.clone().clone().view(*top_k_index.shape, -1)
    return (back * top_k_weights.unsqueeze(-1)).sum(1).to(hidden_states.dtype)


def _run(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    rows = sort_rows(experts, top_k_index)
    split = round(len(rows.order) * getattr(experts, SHARE)) if len(experts.selected_experts) else 0
    return run_experts(experts, hidden_states, top_k_weights, rows, split, _one_for_all)


def _one_for_all(
    rows: Tensor, weights: Tensor, ends: Tensor, bias: Tensor | None = None, is_transposed: bool = False
) -> Tensor:
    """All rows through the first expert: the shapes and operations of a grouped product, whatever the routing."""
    first = weights[0] if is_transposed else weights[0].t()
    out = rows @ first
    return out if bias is None else out + bias[0]


def _fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention (B, heads, T, width) that never holds its (T, T) weights, for heads of any width and causal masks.

    Heads of unequal width are filled up with zeros, without which the CPU's fused kernel does not take them.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) if groups > 1 else states for states in (key, value))
    width = value.shape[-1]
    value = nn.functional.pad(value, (0, query.shape[-1] - width))
    out = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return out[..., :width].transpose(1, 2).contiguous(), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Causal attention needs none."""


register(IMPLEMENTATION, _shapes_only_forward)
AttentionInterface.register(FUSED, _fused_attention)
AttentionMaskInterface.register(FUSED, _no_mask)
