"""Expert-selective training: an experts implementation in which only the selected experts have weight gradients.

The selected experts of a layer are a bank of their own, ordinary parameters `selected_gate_up` [S, 2I, H] and
`selected_down` [S, H, I] of the experts module, copied from the fused tensors, which stay frozen. Token-expert pairs
are sorted with the selected experts first: their rows are then a prefix, and each bank is one grouped product over a
contiguous range. Inputs get all their gradients, weights only in the bank. In the lowest trained layer, whose input
needs no gradient, the frozen rows build no graph at all.

Shapes: T tokens, K experts a token, N = T·K rows, E experts, S of them selected, hidden size H, expert width I.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _grouped_linear

from methods.errors import MethodError
from methods.moe.view import MoeLayer, moe_layers

IMPLEMENTATION = "selective"
"""Name under which the forward below is registered with transformers."""


def use_selective_experts(model: PreTrainedModel, selection: Mapping[int, Sequence[int]]) -> list[nn.Parameter]:
    """Give each layer of `selection` (layer number → expert ids) a trainable bank, in place; return the banks.

    `selection` must be valid for the model (see `selection.check`). Nothing else becomes trainable or is frozen here.
    Raises MethodError where the experts have biases or no gate.
    """
    layers = moe_layers(model)
    for layer in layers.values():
        _check(layer)
    parameters = [p for index, layer in layers.items() for p in _add_bank(layer, selection.get(index, ()))]
    model.set_experts_implementation(IMPLEMENTATION)
    return parameters


def selected_experts(layer: MoeLayer) -> list[int]:
    """The expert ids in the layer's bank, in the order of its rows; empty where it has none."""
    ids = getattr(layer.experts, "selected_experts", None)
    return [] if ids is None else [int(i) for i in ids.tolist()]


def _check(layer: MoeLayer) -> None:
    if getattr(layer.experts, "has_bias", False) or not getattr(layer.experts, "has_gate", True):
        raise MethodError(
            f"`{layer.name}` has experts with biases or without a gate, which cannot be trained selectively"
        )


def _add_bank(layer: MoeLayer, selected: Sequence[int]) -> list[nn.Parameter]:
    """Register the bank and the buffers that sort rows by it. `rank` [E]: an expert's place with selected ones first.

    `last` [E]: the highest rank a frozen expert up to this id has, so that the frozen rows' ends can be read by id.
    """
    experts, device = layer.experts, layer.experts.get_parameter("down_proj").device
    ids = torch.tensor(selected, dtype=torch.long, device=device)
    frozen = torch.ones(layer.num_experts, dtype=torch.long, device=device).index_fill(0, ids, 0)
    last = len(ids) - 1 + frozen.cumsum(0)
    rank = last.index_put((ids,), torch.arange(len(ids), device=device))
    for name, buffer in (("selected_experts", ids), ("selection_rank", rank), ("selection_last", last)):
        experts.register_buffer(name, buffer, persistent=False)
    if not len(ids):
        return []
    bank = {"selected_gate_up": "gate_up_proj", "selected_down": "down_proj"}
    for name, source in bank.items():
        experts.register_parameter(name, nn.Parameter(_trainable_copy(experts.get_parameter(source)[ids])))
    return [experts.get_parameter(name) for name in bank]


def _trainable_copy(weights: Tensor) -> Tensor:
    """In float32 where the model is in half precision: small steps would be lost in rounding there."""
    return weights.detach().to(torch.promote_types(weights.dtype, torch.float32))  # indexing has copied already


class _Dispatch(torch.autograd.Function):
    """Copy each token's state to the rows of its experts: [T, H] → head [n, H] and tail [N − n, H]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, token: Tensor, inverse: Tensor, split: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(inverse)
        return hidden[token[:split]], hidden[token[split:]]

    @staticmethod
    def backward(ctx: Any, head: Tensor, tail: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        return _sum_rows(torch.cat([head, tail]), inverse, None), None, None, None


class _Combine(torch.autograd.Function):
    """Sum each token's rows by gate weight: head [n, H], tail [N − n, H], weights [T, K] → [T, H].

    A part without gradients, the tail of the lowest trained layer, costs nothing in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, head: Tensor, tail: Tensor, weights: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        kept = (head, tail) if ctx.needs_input_grad[2] else (None, None)
        ctx.save_for_backward(*kept, weights, order, inverse)
        ctx.split, ctx.dtype = len(head), head.dtype
        return _sum_rows(torch.cat([head, tail]), inverse, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        head, tail, weights, order, inverse = ctx.saved_tensors
        row_weight, token = weights.reshape(-1, 1)[order], order // weights.shape[1]

        def part(rows: slice) -> Tensor:
            weighted: Tensor = grad[token[rows]] * row_weight[rows]
            return weighted.to(ctx.dtype)

        first, rest = slice(None, ctx.split), slice(ctx.split, None)
        d_weights = None
        if ctx.needs_input_grad[2]:
            per_row = (torch.cat([head, tail]) * grad[token]).sum(-1)
            d_weights = per_row[inverse].view_as(weights).to(weights.dtype)
        needs_head, needs_tail = ctx.needs_input_grad[:2]
        return part(first) if needs_head else None, part(rest) if needs_tail else None, d_weights, None, None


def _sum_rows(rows: Tensor, inverse: Tensor, weights: Tensor | None) -> Tensor:
    """Sum rows [N, H] over each token's K rows, at `inverse` [T, K]; optionally weighted. Returns [T, H]."""
    if weights is not None and weights.dtype != rows.dtype:
        summed = (rows[inverse] * weights.unsqueeze(-1)).sum(1).to(rows.dtype)
    else:
        summed = F.embedding_bag(inverse, rows, mode="sum", per_sample_weights=weights)
    return summed


def selective_experts_forward(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The forward transformers calls for an experts module: [T, H], [T, K], [T, K] → [T, H]."""
    selected = len(experts.selected_experts)
    keys, order = torch.sort(experts.selection_rank[top_k_index.reshape(-1)])
    inverse = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    inverse = inverse.view_as(top_k_index)
    ends = torch.searchsorted(keys, torch.arange(len(experts.selection_rank), device=keys.device), right=True)
    ends = ends.to(torch.int32)
    split = int(ends[selected - 1]) if selected else 0  # the one host synchronisation

    head, tail = _Dispatch.apply(  # type: ignore[no-untyped-call]
        hidden_states, order // top_k_index.shape[1], inverse, split
    )
    if selected:
        head = _mlp(experts, head, experts.selected_gate_up, experts.selected_down, ends[:selected])
    if len(tail):
        tail = _mlp(experts, tail, experts.gate_up_proj, experts.down_proj, ends[experts.selection_last] - split)
    out: Tensor = _Combine.apply(  # type: ignore[no-untyped-call]
        head, tail, top_k_weights, order, inverse
    )
    return out.to(hidden_states.dtype)


def _mlp(experts: Any, rows: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> Tensor:
    """The gated MLP of each row's expert; rows [n, H] are sorted by expert, `ends` says where each one's rows end."""
    dtype = torch.get_autocast_dtype(rows.device.type) if torch.is_autocast_enabled(rows.device.type) else rows.dtype
    transposed = experts.is_transposed
    rows = _grouped_linear(rows.to(dtype), gate_up.to(dtype), ends, is_transposed=transposed)
    rows = experts._apply_gate(rows)
    rows = _grouped_linear(rows.to(dtype), down.to(dtype), ends, is_transposed=transposed)
    return rows


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, selective_experts_forward)
