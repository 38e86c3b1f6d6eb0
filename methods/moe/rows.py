"""Token-expert pairs as rows sorted by expert, and the way there and back.

Shapes: T tokens, K experts a token, N = T·K rows, the first n of them the head; E experts; hidden size H.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


class Dispatch(torch.autograd.Function):
    """Copy each token's state to the rows of its experts: [T, H] → head [n, H] and tail [N − n, H]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, token: Tensor, inverse: Tensor, split: int) -> tuple[Tensor, Tensor]:
        """[T, H] → head [n, H] and tail [N − n, H]."""
        ctx.save_for_backward(token, inverse)
        return hidden.index_select(0, token[:split]), hidden.index_select(0, token[split:])

    @staticmethod
    def backward(ctx: Any, head: Tensor, tail: Tensor) -> tuple[Tensor, None, None, None]:
        """Sum the gradients of each token's rows."""
        return _sum_rows(head, tail, *ctx.saved_tensors), None, None, None


class Combine(torch.autograd.Function):
    """Sum each token's rows: head [n, H], tail [N − n, H] → [T, H]. The reverse of dispatch.

    A part without gradients, the tail of the lowest trained layer, costs nothing in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, head: Tensor, tail: Tensor, token: Tensor, inverse: Tensor) -> Tensor:
        """Head [n, H] and tail [N − n, H] → [T, H]."""
        ctx.save_for_backward(token)
        ctx.split = len(head)
        return _sum_rows(head, tail, token, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Copy each token's gradient to its rows."""
        (token,) = ctx.saved_tensors
        needs_head, needs_tail = ctx.needs_input_grad[:2]
        head = grad.index_select(0, token[: ctx.split]) if needs_head else None
        tail = grad.index_select(0, token[ctx.split :]) if needs_tail else None
        return head, tail, None, None


def _sum_rows(head: Tensor, tail: Tensor, token: Tensor, inverse: Tensor) -> Tensor:
    """Sum rows over each token's K: row i belongs to `token[i]`, a token's rows are at `inverse` [T, K]. → [T, H]."""
    if head.device.type == "cpu" and head.dtype == torch.float32:
        summed = head.new_zeros(len(inverse), head.shape[1])
        return summed.index_add_(0, token[: len(head)], head).index_add_(0, token[len(head) :], tail)
    # Elsewhere that would round after each addition, or add in no fixed order.
    parts = [part for part in (head, tail) if len(part)]
    rows = torch.cat(parts) if len(parts) > 1 else parts[0]
    summed = F.embedding_bag(inverse, rows, mode="sum")
    return summed


@dataclass(frozen=True)
class Rows:
    """Token-expert pairs sorted by expert, selected experts first: row i is pair `order[i]` and belongs to `token[i]`.

    `inverse` [T, K]: the row of each pair; `ends` [E]: where the rows of the experts, in sorted order, end;
    `place` [N]: the place of a row's expert in that order.
    """

    order: Tensor
    token: Tensor
    inverse: Tensor
    ends: Tensor
    place: Tensor


def sort_rows(experts: Any, top_k_index: Tensor) -> Rows:
    """Sort the pairs of a batch, [T, K] expert ids, so that each expert's rows are contiguous."""
    place, order = torch.sort(experts.selection_rank[top_k_index.reshape(-1)])
    inverse = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    ends = torch.searchsorted(place, torch.arange(len(experts.selection_rank), device=place.device), right=True)
    return Rows(order, order // top_k_index.shape[1], inverse.view_as(top_k_index), ends.to(torch.int32), place)
