"""Expert-selective training: an experts implementation in which only the selected experts have weight gradients.

The selected experts of a layer are a bank of their own, ordinary parameters `selected_gate_up` [S, 2I, H] and
`selected_down` [S, H, I] of the experts module (and their biases, where experts have any; transposed, where the model's
are), copied from the fused tensors, which stay frozen. Where what is selected changes while a model trains
(`methods.moe.changing`) a bank has several parts, parameters of the same names with a number. Token-expert pairs are
sorted with the selected experts first: their rows are then a prefix, and each bank is one grouped product over a
contiguous range. Inputs get all their gradients, weights only in the bank. In the lowest trained layer, whose input
needs no gradient, the frozen rows build no graph at all.

Shapes: T tokens, K experts a token, N = T·K rows, E experts, S of them selected, hidden size H, expert width I.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _grouped_linear

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.fp8 import Packed, weights_of
from esft_bench.methods.moe.rows import Combine, Dispatch, Rows, sort_rows
from esft_bench.methods.moe.updates import Factors, GroupedProduct, Groups, updated_product
from esft_bench.methods.moe.view import BIAS, DOWN, UP, MoeLayer, check_not_quantised, moe_layers

IMPLEMENTATION = "selective"
"""Name under which the forward below is registered with transformers."""
BANK = {
    f"selected_{name.removesuffix('_proj')}{suffix}": f"{name}{suffix}" for name in (*UP, DOWN) for suffix in ("", BIAS)
}
"""Parameters of a bank, e.g. `selected_gate_up`, and the fused parameters they are rows of: see `bank_of`."""
UPDATES = "low_rank_updates"
"""Where an experts module keeps, for fused parameters by name, what gives the factors of low-rank updates."""
DROPOUT = "low_rank_dropout"
"""Where it keeps the share of the updates' inputs that is dropped while it trains."""


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


def register(name: str, forward: Callable[..., Tensor]) -> None:
    """Register with transformers a forward of experts that calls `run_experts`, and so adds low-rank updates."""
    ALL_EXPERTS_FUNCTIONS.register(name, forward)
    _KNOWING.add(name)


def knows_updates(experts: nn.Module) -> bool:
    """Whether an experts module runs by a forward that adds what it keeps as `UPDATES`."""
    return getattr(getattr(experts, "config", None), "_experts_implementation", None) in _KNOWING


_KNOWING: set[str] = set()


def bank_of(layer: MoeLayer) -> dict[str, str]:
    """The parameters that a bank of this layer has, each with the fused parameter it is rows of."""
    return {bank: kind for bank, kind in BANK.items() if kind in layer.kinds}


def _check(layer: MoeLayer) -> None:
    if not hasattr(layer.experts, "_is_expert_parallel"):  # transformers' decorator sets it
        raise MethodError(
            f"`{layer.name}` runs no other experts implementation (transformers' `use_experts_implementation`), so its "
            "experts cannot be trained selectively; take the method fft or lora"
        )
    parts = getattr(layer.experts, "bank_parts", {})
    known = {*BANK, *layer.kinds, *(f"{bank}{part}" for bank in BANK for part in parts)}
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
    """Register a bank of one part, or none where nothing is selected."""
    arrange(layer, {"": selected} if len(selected) else {})
    return add_part(layer, "", selected) if len(selected) else []


def arrange(layer: MoeLayer, parts: Mapping[str, Sequence[int]]) -> None:
    """Register what sorts rows by a bank of `parts`: their experts by what the parts' names end in.

    Buffers are `rank` [E]: an expert's place with selected ones first; `order` [E]: the expert in each place; `last`
    [E]: the highest rank a frozen expert up to this id has, so that the frozen rows' ends can be read by id.
    """
    experts, device = layer.experts, layer.experts.get_parameter(DOWN).device
    selected = [expert for part in parts.values() for expert in part]
    ids = torch.tensor(selected, dtype=torch.long, device=device)
    frozen = torch.ones(layer.num_experts, dtype=torch.long, device=device).index_fill(0, ids, 0)
    last = len(ids) - 1 + frozen.cumsum(0)
    rank = last.index_put((ids,), torch.arange(len(ids), device=device))
    experts.register_buffer("selected_experts", ids, persistent=False)
    experts.selected_ids = tuple(selected)  # type: ignore[assignment]  # reading the buffer would wait for the device
    experts.bank_parts = {name: tuple(part) for name, part in parts.items()}  # type: ignore[assignment]
    for name, buffer in (("rank", rank), ("order", rank.argsort()), ("last", last)):
        experts.register_buffer(f"selection_{name}", buffer, persistent=False)


def add_part(layer: MoeLayer, part: str, ids: Sequence[int]) -> list[nn.Parameter]:
    """Register the parameters of a part of a bank, copies of experts as they are; returns them."""
    bank, experts = bank_of(layer), layer.experts
    for name, source in bank.items():
        rows = experts.get_parameter(source)[torch.tensor(ids, device=experts.get_parameter(source).device)]
        experts.register_parameter(f"{name}{part}", nn.Parameter(_trainable_copy(rows)))
    return [experts.get_parameter(f"{name}{part}") for name in bank]


def bank_weights(experts: Any, name: str) -> Tensor | None:
    """One kind of weights of a whole bank, [S, …]; None where there is no bank, or no such weights in it."""
    found = [getattr(experts, f"{name}{part}", None) for part in getattr(experts, "bank_parts", ())]
    parts = [part for part in found if part is not None]
    return torch.cat(parts) if len(parts) > 1 else next(iter(parts), None)


def _trainable_copy(weights: Tensor) -> Tensor:
    """In float32 where the model is in half precision: small steps would be lost in rounding there."""
    return weights.detach().to(torch.promote_types(weights.dtype, torch.float32))  # indexing has copied already


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
    head, tail = Dispatch.apply(states, rows.token, rows.inverse, split)  # type: ignore[no-untyped-call]
    if selected:
        bank = _part(experts, "selected_{}{}", rows.ends[:selected], rows.place[:split])
        head = _mlp(experts, head, weights[:split], bank, grouped)
    if len(tail):
        ends, ids = rows.ends[experts.selection_last] - split, experts.selection_order[rows.place[split:]]
        fused = replace(_part(experts, "{}_proj{}", ends, ids), **_updates(experts))
        tail = _mlp(experts, tail, weights[split:], fused, grouped)
    out: Tensor = Combine.apply(head, tail, rows.token, rows.inverse)  # type: ignore[no-untyped-call]
    return out.to(hidden_states.dtype)


@dataclass(frozen=True)
class _Part:
    """A bank or the fused tensors, and what is added to these.

    `ends`: where the rows of each of their experts end; `ids` [n]: whose a row is.
    """

    up: Tensor | Packed
    down: Tensor | Packed
    up_bias: Tensor | None
    down_bias: Tensor | None
    ends: Tensor
    ids: Tensor
    up_updates: Factors = ()
    down_updates: Factors = ()
    dropout: float = 0.0


def _part(experts: Any, name: str, ends: Tensor, ids: Tensor) -> _Part:
    """The parameters of the bank or the fused ones, which `name` says; experts without a gate have only `up`."""
    kinds = ("gate_up" if experts.has_gate else "up", "down")
    names = [name.format(kind, suffix) for suffix in ("", BIAS) for kind in kinds]
    up, down, up_bias, down_bias = (_weights(experts, each) for each in names)
    return _Part(up, down, up_bias, down_bias, ends, ids)


def _weights(experts: Any, name: str) -> Any:
    return bank_weights(experts, name) if name in BANK else weights_of(experts, name)


def _updates(experts: Any) -> dict[str, Any]:
    """The low-rank updates of the fused tensors, where there are any."""
    updates = getattr(experts, UPDATES, {})
    found = {("down_updates" if name == DOWN else "up_updates"): factors() for name, factors in updates.items()}
    return {**found, "dropout": getattr(experts, DROPOUT, 0.0) if experts.training else 0.0}


def _mlp(experts: Any, rows: Tensor, weights: Tensor, part: _Part, grouped: GroupedProduct) -> Tensor:
    """The MLP of each row's expert, times the row's gate weight [n, 1]; rows [n, H] are sorted by expert.

    The gate weights go in before the down projection, so that their gradient is a sum over I products, not H, and no
    [n, H] is kept for it.
    """
    dtype, groups = rows.dtype, Groups(part.ends, experts.is_transposed, grouped, part.dropout)
    inner = updated_product(rows, part.up, part.up_updates, groups)
    if part.up_bias is not None:
        inner = inner + F.embedding(part.ids, part.up_bias.to(dtype))
    activate = experts._apply_gate if experts.has_gate else experts.act_fn
    inner = (activate(inner) * weights).to(dtype)
    outer = updated_product(inner, part.down, part.down_updates, groups)
    if part.down_bias is not None:
        outer = outer + F.embedding(part.ids, part.down_bias.to(dtype)) * weights.to(dtype)
    return outer


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """Autocast's where it is on: grouped products do not follow it by themselves."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


register(IMPLEMENTATION, selective_experts_forward)
