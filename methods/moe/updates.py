"""Low-rank updates of fused experts: beside the product with the frozen matrix two thin ones a row, W x + B (A x).

On a CPU all products of an expert come one after another, while its rows are in the processor's cache, and the thin
ones are added to what is there: to the outputs on the way forth, to the gradient of the rows on the way back. As
operations of their own they would write whole tensors of rows, only for these to be read again and added up, which
costs more than the products themselves.

Shapes: n rows sorted by expert, E experts, rank R.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.integrations.moe import _grouped_linear

from esft_bench.methods.moe.fp8 import Packed, product

GroupedProduct = Callable[..., Tensor]
"""(rows [n, in], weights [experts, …], ends, is_transposed=…) → [n, out], as transformers' grouped linear layer."""
Factors = Sequence[tuple[Tensor, Tensor]]
"""Pairs of factors [E, …, R] and [E, R, …] whose products are added to a fused parameter."""


@dataclass(frozen=True)
class Groups:
    """How rows are multiplied by their experts' matrices.

    Attributes:
        ends: [E], where the rows of each expert end.
        is_transposed: whether matrices are [E, in, out], not [E, out, in].
        product: what does it.
        dropout: the share of the inputs of updates that is dropped.
    """

    ends: Tensor
    is_transposed: bool
    product: GroupedProduct = _grouped_linear
    dropout: float = 0.0

    def times(self, rows: Tensor, weights: Tensor | Packed) -> Tensor:
        """Rows [n, in] times the matrices: [n, out]."""
        return product(rows, weights, self.ends, self.is_transposed, self.product)


def updated_product(rows: Tensor, weights: Tensor | Packed, updates: Factors, groups: Groups) -> Tensor:
    """Rows [n, in] times their experts' matrices with the updates added to these: [n, out]."""
    frozen = isinstance(weights, Tensor) and not weights.requires_grad
    if updates and frozen and not groups.dropout and rows.device.type == "cpu" and groups.product is _grouped_linear:
        first, second = _joined(updates, rows.dtype, groups.is_transposed)
        out: Tensor = _Updated.apply(rows, weights.to(rows.dtype), first, second, groups)  # type: ignore[no-untyped-call]
        return out
    out = groups.times(rows, weights)
    kept = F.dropout(rows, groups.dropout) if groups.dropout else rows
    for left, right in updates:
        left, right = _aligned(left, right, rows.dtype)
        first, second = (left, right) if groups.is_transposed else (right, left)
        out.add_(groups.times(groups.times(kept, first), second))
    return out


def _aligned(left: Tensor, right: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factors as grouped products want them: of one type, contiguous, the rank filled up to whole 16 bytes."""
    missing = -left.shape[-1] % (16 // dtype.itemsize)
    left, right = left.to(dtype), right.to(dtype)
    if not missing:
        return left.contiguous(), right.contiguous()
    return F.pad(left, (0, missing)), F.pad(right, (0, 0, 0, missing))


def _joined(updates: Factors, dtype: torch.dtype, is_transposed: bool) -> tuple[Tensor, Tensor]:
    """The factors of all updates, A [E, R, in] and B [E, R, out], as one of the sum of their ranks."""
    pairs = [(left.mT, right) if is_transposed else (right, left.mT) for left, right in updates]
    first, second = (torch.cat(each, dim=1).to(dtype) for each in zip(*pairs, strict=True))
    return first.contiguous(), second.contiguous()


class _Updated(torch.autograd.Function):
    """The same on a CPU. Rows and factors, A [E, R, in] and B [E, R, out], get gradients, the matrices none."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, first: Tensor, second: Tensor, groups: Groups) -> Tensor:
        """Rows [n, in] → [n, out]."""
        matrices = weights if groups.is_transposed else weights.mT
        out, thin = (rows.new_empty(len(rows), width) for width in (matrices.shape[2], first.shape[1]))
        for x, t, y, w, a, b in _by_expert(groups, (rows, thin, out), (matrices, first, second)):
            torch.mm(x, w, out=y)
            torch.mm(x, a.t(), out=t)
            y.addmm_(t, b)
        ctx.save_for_backward(rows, thin, weights, first, second)
        ctx.groups = groups
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of rows [n, in] and of the factors."""
        rows, thin, weights, first, second = ctx.saved_tensors
        matrices = weights.mT if ctx.groups.is_transposed else weights
        to_rows, back, to_first, to_second = (torch.empty_like(each) for each in (rows, thin, first, second))
        moving, standing = (rows, thin, grad, back, to_rows), (matrices, first, second, to_first, to_second)
        for x, t, g, s, d, w, a, b, da, db in _by_expert(ctx.groups, moving, standing):
            torch.mm(g, b.t(), out=s)
            torch.mm(t.t(), g, out=db)
            torch.mm(s.t(), x, out=da)
            if ctx.needs_input_grad[0]:
                torch.mm(g, w, out=d)
                d.addmm_(s, a)
        return to_rows if ctx.needs_input_grad[0] else None, None, to_first, to_second, None


def _by_expert(groups: Groups, rows: Sequence[Tensor], factors: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Of each expert its rows of some tensors [n, …] and its part of some [E, …]."""
    sizes = groups.ends.diff(prepend=groups.ends.new_zeros(1)).tolist()
    return zip(*(torch.split(each, sizes) for each in rows), *(each.unbind() for each in factors), strict=True)
