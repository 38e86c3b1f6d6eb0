"""Frozen experts as FP8 numbers: e4m3 in blocks of 128 × 128 with a scale each, as DeepSeek-V3 ships them.

An experts module keeps its fused matrices as frozen parameters of the same names and shapes, a byte a number, and their
scales in buffers beside. They are made numbers again for each product, on the way forth and on the way back, and kept
by no graph. Only what gives back every number, to the last bit, is packed: a checkpoint that was unpacked from FP8 is
trained as if it had not been packed. (A kernel that multiplies FP8 numbers would round activations too, and train
another model.)

Shapes: E experts; a matrix [E, R, C], of which P = 2 projections lie one below the other where experts have a gate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from esft_bench.methods.errors import MethodError

BLOCK = 128
LARGEST = 448.0
"""Of the numbers of e4m3."""
PACKED = torch.float8_e4m3fn
SCALES = "_fp8_scales"
"""What the buffer of a matrix's scales is called, after the matrix."""
ORIGINAL = "_unpacked_type"
"""Where an experts module keeps the type that its matrices had."""
AT_ONCE = 2**25
"""So many numbers are made of packed ones at a time, in float32."""


@dataclass(frozen=True)
class Packed:
    """A fused matrix [E, R, C] in FP8, with its scales [E, P, blocks of rows, blocks of columns]."""

    numbers: Tensor
    scales: Tensor

    def to(self, dtype: torch.dtype) -> Tensor:
        """The numbers, rounded to bfloat16 as those of an unpacked checkpoint are, in a type."""
        out = torch.empty(self.numbers.shape, dtype=dtype, device=self.numbers.device)
        for part in _parts(self.numbers):
            out[part] = _flat(_blocks(self.numbers[part], self.scales.shape[1]) * _spread(self.scales[part]), out[part])
        return out


def product(
    rows: Tensor, weights: Tensor | Packed, ends: Tensor, is_transposed: bool, grouped: Callable[..., Tensor]
) -> Tensor:
    """A grouped product: rows [n, in] sorted by expert, `ends` [E] where each one's end → [n, out]."""
    if isinstance(weights, Packed):
        out: Tensor = _FrozenProduct.apply(rows, weights, ends, is_transposed, grouped)  # type: ignore[no-untyped-call]
        return out
    return grouped(rows, weights.to(rows.dtype), ends, is_transposed=is_transposed)


def weights_of(experts: Any, name: str) -> Any:
    """A fused matrix of an experts module: a tensor, or one that is packed; None where it has none of that name."""
    weight: Any = getattr(experts, name, None)
    return Packed(weight, getattr(experts, name + SCALES)) if is_packed(weight) else weight


def is_packed(weight: Any) -> bool:
    """Whether a fused matrix is in FP8."""
    return weight is not None and weight.dtype == PACKED


def unpacked_type(experts: nn.Module, name: str) -> torch.dtype:
    """The type of a fused matrix, that which it had where it is packed."""
    weight = experts.get_parameter(name)
    return experts.__dict__[ORIGINAL] if is_packed(weight) else weight.dtype  # type: ignore[no-any-return]


def pack(experts: nn.Module, name: str, device: torch.device) -> None:
    """Keep a frozen matrix of an experts module in FP8 from now on, on a device.

    Raises MethodError where some number would not come back as it is.
    """
    weight = experts.get_parameter(name).detach()
    projections = 2 if name == "gate_up_proj" else 1
    blocks = [projections, *(-(-side // BLOCK) for side in (weight.shape[1] // projections, weight.shape[2]))]
    scales = torch.empty(len(weight), *blocks, dtype=torch.float32, device=device)
    numbers = torch.empty(weight.shape, dtype=PACKED, device=device)
    for part in _parts(weight) if device.type != "meta" else ():
        found = _packed(weight[part].to(device), projections)
        if found is None:
            raise MethodError(
                f"`{name}` of the experts holds numbers that are none of FP8 in blocks of {BLOCK} × {BLOCK} with a "
                "scale each: leave training.frozen_experts out, or take a backbone that ships so"
            )
        numbers[part], scales[part] = found
    experts.__dict__[ORIGINAL] = weight.dtype
    experts.register_parameter(name, nn.Parameter(numbers, requires_grad=False))
    experts.register_buffer(name + SCALES, scales, persistent=False)


def _packed(weight: Tensor, projections: int) -> tuple[Tensor, Tensor] | None:
    """e4m3 numbers and scales that give these back, each block by the first way that does; None where none does."""
    given = _blocks(weight, projections)
    most = given.abs().amax((3, 5), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    numbers, scales, right = torch.zeros_like(given), torch.ones_like(most), torch.zeros_like(most, dtype=torch.bool)
    for first in (most / LARGEST, torch.exp2(torch.ceil(torch.log2(most / LARGEST)))):
        found = (given / first).clamp(-LARGEST, LARGEST).to(PACKED).float()
        scale = _narrowed(given, found, first)
        fits = ((found * scale).to(torch.bfloat16).float() == given).all(3, keepdim=True).all(5, keepdim=True)
        better = fits & ~right
        numbers, scales, right = torch.where(better, found, numbers), torch.where(better, scale, scales), right | fits
    if not right.all():
        return None
    out = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    return _flat(numbers, out).to(PACKED), scales[:, :, :, 0, :, 0]


def _narrowed(given: Tensor, numbers: Tensor, first: Tensor) -> Tensor:
    """A scale for each block with which all its numbers round to those given: from the middle of where it may lie.

    A bfloat16 number m·2^e with m in [½, 1) is what lies within 2^(e−9) of it; below ½·2^e within half of that.
    """
    mantissa, exponent = torch.frexp(given.abs())
    half = torch.ldexp(torch.ones_like(given), exponent - 9)
    below = torch.where(mantissa == 0.5, half / 2, half)
    zero = numbers == 0
    size = numbers.abs().masked_fill(zero, 1.0)
    low = ((given.abs() - below) / size).masked_fill(zero, 0.0).amax((3, 5), keepdim=True)
    high = ((given.abs() + half) / size).masked_fill(zero, torch.inf).amin((3, 5), keepdim=True)
    middle = (low + high) / 2
    exact = (numbers * first).to(torch.bfloat16).float().eq(given).all(3, keepdim=True).all(5, keepdim=True)
    return torch.where(exact | ~middle.isfinite(), first, middle)


def _parts(weight: Tensor) -> Iterator[slice]:
    """Experts that are worked on at a time."""
    step = max(1, AT_ONCE // max(1, weight[0].numel()))
    return (slice(start, start + step) for start in range(0, len(weight), step))


def _blocks(weight: Tensor, projections: int) -> Tensor:
    """[E, R, C] in float32 as [E, P, blocks of rows, 128, blocks of columns, 128], filled up with zeros."""
    own = weight.float().reshape(len(weight), projections, -1, weight.shape[2])
    rows, columns = own.shape[2:]
    own = F.pad(own, (0, -columns % BLOCK, 0, -rows % BLOCK))
    down, across = own.shape[2] // BLOCK, own.shape[3] // BLOCK
    return own.view(len(weight), projections, down, BLOCK, across, BLOCK)


def _spread(scales: Tensor) -> Tensor:
    return scales[:, :, :, None, :, None]


def _flat(blocks: Tensor, like: Tensor) -> Tensor:
    """Blocks as a matrix like another one, rounded to bfloat16."""
    projections = blocks.shape[1]
    whole = blocks.to(torch.bfloat16).flatten(4, 5).flatten(2, 3)
    return whole[:, :, : like.shape[1] // projections, : like.shape[2]].flatten(1, 2).to(like.dtype)


class _FrozenProduct(torch.autograd.Function):
    """A grouped product with a packed matrix: rows [n, in] → [n, out]. Rows get their gradient, the matrix none."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Packed, ends: Tensor, is_transposed: bool, grouped: Any) -> Tensor:
        """Rows [n, in] → [n, out]."""
        ctx.save_for_backward(ends)
        ctx.weights, ctx.is_transposed, ctx.grouped = weights, is_transposed, grouped
        out: Tensor = grouped(rows, weights.to(rows.dtype), ends, is_transposed=is_transposed)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient of the rows: a product with the transposed matrix."""
        (ends,) = ctx.saved_tensors
        weights = ctx.weights.to(grad.dtype)
        return ctx.grouped(grad, weights, ends, is_transposed=not ctx.is_transposed), None, None, None, None
