"""Expert-selective training: an experts implementation in which only the selected experts have weight gradients.

The selected experts of a layer are a bank of their own, ordinary parameters `selected_gate_up` [S, 2I, H] and
`selected_down` [S, H, I] of the experts module (and their biases, where experts have any; transposed, where the model's
are), copied from the fused tensors, which stay frozen. Token-expert pairs are sorted with the selected experts first:
their rows are then a prefix, and each bank is one grouped product over a contiguous range. Inputs get all their
gradients, weights only in the bank. In the lowest trained layer, whose input needs no gradient, the frozen rows build
no graph at all.

Shapes: T tokens, K experts a token, N = T·K rows, E experts, S of them selected, hidden size H, expert width I.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _grouped_linear

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.view import BIAS, DOWN, UP, MoeLayer, check_not_quantised, moe_layers

IMPLEMENTATION = "selective"
"""Name under which the forward below is registered with transformers."""
BANK = {
    f"selected_{name.removesuffix('_proj')}{suffix}": f"{name}{suffix}" for name in (*UP, DOWN) for suffix in ("", BIAS)
}
"""Parameters of a bank, e.g. `selected_gate_up`, and the fused parameters they are rows of: see `bank_of`."""
GroupedProduct = Callable[..., Tensor]
"""(rows [n, in], weights [experts, …], ends, is_transposed=…) → [n, out], as transformers' grouped linear layer."""


def use_selective_experts(model: PreTrainedModel, selection: Mapping[int, Sequence[int]]) -> list[nn.Parameter]:
    """Give each layer of `selection` (layer number → expert ids) a trainable bank, in place; return the banks.

    `selection` must be valid for the model (see `selection.check`). Nothing else becomes trainable or is frozen here.
    Raises MethodError where experts have parts that are not known here or cannot be run by another implementation, and
    for a model of a quantised checkpoint.
    """
    check_not_quantised(model)
    layers = moe_layers(model)
    for layer in layers.values():
        _check(layer)
    parameters = [p for index, layer in layers.items() for p in _add_bank(layer, selection.get(index, ()))]
    plug_in(model, layers, IMPLEMENTATION)
    return parameters


def use_fast_experts(model: PreTrainedModel) -> None:
    """Run the experts, if the model has any that can, by the same implementation without banks: a faster FFT or LoRA.

    Methods are then compared on equal terms. Dense models and experts of other forms keep what they have. Raises
    MethodError for a model of a quantised checkpoint, into which nothing that is trained could be merged.
    """
    check_not_quantised(model)
    try:
        use_selective_experts(model, {})
    except MethodError:
        return


def selected_experts(layer: MoeLayer) -> list[int]:
    """The expert ids in the layer's bank, in the order of its rows; empty where it has none."""
    return list(getattr(layer.experts, "selected_ids", ()))


def bank_of(layer: MoeLayer) -> dict[str, str]:
    """The parameters that a bank of this layer has, each with the fused parameter it is rows of."""
    return {bank: kind for bank, kind in BANK.items() if kind in layer.kinds}


def _check(layer: MoeLayer) -> None:
    if not hasattr(layer.experts, "_is_expert_parallel"):  # transformers' decorator sets it
        raise MethodError(
            f"`{layer.name}` runs no other experts implementation (transformers' `use_experts_implementation`), so its "
            "experts cannot be trained selectively; take the method fft or lora"
        )
    known = {*BANK, *layer.kinds}
    names = (name for name, _ in layer.experts.named_parameters() if not name.startswith("parametrizations."))
    if unknown := sorted(name for name in names if name not in known):
        raise MethodError(
            f"`{layer.name}` has the parameter `{unknown[0]}`, which is none of {', '.join(BANK.values())}, so its "
            "experts cannot be trained selectively; take the method fft or lora"
        )


def plug_in(model: PreTrainedModel, layers: Mapping[int, MoeLayer], implementation: str) -> None:
    """Have every layer's experts run by a forward registered with transformers.

    Raises MethodError where one does not take it, or has parts that such a forward does not know.
    """
    for layer in layers.values():
        _check(layer)
    try:
        model.set_experts_implementation(implementation)
    except ValueError as error:
        raise MethodError(f"{type(model).__name__} takes no other experts implementation ({error})") from error
    for layer in layers.values():
        used = getattr(layer.experts.config, "_experts_implementation", None)
        if used != implementation:
            raise MethodError(f"`{layer.name}` is still run by the implementation {used}, not by {implementation}")


def _add_bank(layer: MoeLayer, selected: Sequence[int]) -> list[nn.Parameter]:
    """Register the bank and the buffers that sort rows by it. `rank` [E]: an expert's place with selected ones first.

    `order` [E]: the expert in each place; `last` [E]: the highest rank a frozen expert up to this id has, so that the
    frozen rows' ends can be read by id.
    """
    experts, device = layer.experts, layer.experts.get_parameter(DOWN).device
    ids = torch.tensor(selected, dtype=torch.long, device=device)
    frozen = torch.ones(layer.num_experts, dtype=torch.long, device=device).index_fill(0, ids, 0)
    last = len(ids) - 1 + frozen.cumsum(0)
    rank = last.index_put((ids,), torch.arange(len(ids), device=device))
    experts.register_buffer("selected_experts", ids, persistent=False)
    experts.selected_ids = tuple(selected)  # type: ignore[assignment]  # reading the buffer would wait for the device
    for name, buffer in (("rank", rank), ("order", rank.argsort()), ("last", last)):
        experts.register_buffer(f"selection_{name}", buffer, persistent=False)
    if not len(ids):
        return []
    bank = bank_of(layer)
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
        ctx.save_for_backward(token, inverse)
        return hidden.index_select(0, token[:split]), hidden.index_select(0, token[split:])

    @staticmethod
    def backward(ctx: Any, head: Tensor, tail: Tensor) -> tuple[Tensor, None, None, None]:
        return _sum_rows(head, tail, *ctx.saved_tensors), None, None, None


class _Combine(torch.autograd.Function):
    """Sum each token's rows: head [n, H], tail [N − n, H] → [T, H]. The reverse of dispatch.

    A part without gradients, the tail of the lowest trained layer, costs nothing in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, head: Tensor, tail: Tensor, token: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(token)
        ctx.split = len(head)
        return _sum_rows(head, tail, token, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
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
    summed = F.embedding_bag(inverse, torch.cat([head, tail]), mode="sum")
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


def selective_experts_forward(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The forward transformers calls for an experts module: [T, H], [T, K], [T, K] → [T, H]."""
    selected = len(experts.selected_experts)
    rows = sort_rows(experts, top_k_index)
    split = int(rows.ends[selected - 1]) if selected else 0  # the one host synchronisation
    return run_experts(experts, hidden_states, top_k_weights, rows, split)


def run_experts(
    experts: Any,
    hidden_states: Tensor,
    top_k_weights: Tensor,
    rows: Rows,
    split: int,
    grouped: GroupedProduct = _grouped_linear,
) -> Tensor:
    """Run the bank on the first `split` rows and the frozen experts on the others, each as grouped products."""
    selected = len(experts.selected_experts)
    weights = top_k_weights.reshape(-1, 1).gather(0, rows.order.unsqueeze(1))
    states = hidden_states.to(_compute_dtype(hidden_states))
    head, tail = _Dispatch.apply(states, rows.token, rows.inverse, split)  # type: ignore[no-untyped-call]
    if selected:
        bank = _part(experts, "selected_{}{}", rows.ends[:selected], rows.place[:split])
        head = _mlp(experts, head, weights[:split], bank, grouped)
    if len(tail):
        ends, ids = rows.ends[experts.selection_last] - split, experts.selection_order[rows.place[split:]]
        tail = _mlp(experts, tail, weights[split:], _part(experts, "{}_proj{}", ends, ids), grouped)
    out: Tensor = _Combine.apply(head, tail, rows.token, rows.inverse)  # type: ignore[no-untyped-call]
    return out.to(hidden_states.dtype)


@dataclass(frozen=True)
class _Part:
    """A bank or the fused tensors; `ends`: where the rows of each of their experts end; `ids` [n]: whose a row is."""

    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    ends: Tensor
    ids: Tensor


def _part(experts: Any, name: str, ends: Tensor, ids: Tensor) -> _Part:
    """The parameters of the bank or the fused ones, which `name` says; experts without a gate have only `up`."""
    up = "gate_up" if experts.has_gate else "up"
    up_weights, down_weights = (getattr(experts, name.format(part, "")) for part in (up, "down"))
    up_bias, down_bias = (getattr(experts, name.format(part, BIAS), None) for part in (up, "down"))
    return _Part(up_weights, down_weights, up_bias, down_bias, ends, ids)


def _mlp(experts: Any, rows: Tensor, weights: Tensor, part: _Part, grouped: GroupedProduct) -> Tensor:
    """The MLP of each row's expert, times the row's gate weight [n, 1]; rows [n, H] are sorted by expert.

    The gate weights go in before the down projection, so that their gradient is a sum over I products, not H, and no
    [n, H] is kept for it.
    """
    dtype, transposed = rows.dtype, experts.is_transposed
    inner = grouped(rows, part.up.to(dtype), part.ends, is_transposed=transposed)
    if part.up_bias is not None:
        inner = inner + F.embedding(part.ids, part.up_bias.to(dtype))
    activate = experts._apply_gate if experts.has_gate else experts.act_fn
    inner = (activate(inner) * weights).to(dtype)
    outer = grouped(inner, part.down.to(dtype), part.ends, is_transposed=transposed)
    if part.down_bias is not None:
        outer = outer + F.embedding(part.ids, part.down_bias.to(dtype)) * weights.to(dtype)
    return outer


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """Autocast's where it is on: grouped products do not follow it by themselves."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, selective_experts_forward)
