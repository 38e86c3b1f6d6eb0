"""Looking at routed experts while they run: an experts implementation that tells how long each expert's output is.

It computes what transformers' own grouped forward does, product by product, so that the model's outputs stay the same
to the last bit, and adds the low-rank updates that the experts keep; an observer gets the routing and the norms of the
experts' outputs besides.

Shapes: T tokens, K experts a token, N = T·K pairs, E experts, hidden size H, expert width I.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.moe import _grouped_linear

from esft_bench.methods.moe.experts import BANK, UPDATES, bank_weights, plug_in, register
from esft_bench.methods.moe.fp8 import ORIGINAL, Packed, weights_of
from esft_bench.methods.moe.updates import Groups, updated_product
from esft_bench.methods.moe.view import MoeLayer

IMPLEMENTATION = "observed"
"""Name under which the forward below is registered with transformers."""
OBSERVER = "_observer"
Observer = Callable[[Tensor, Tensor, Tensor], None]
"""Gets the chosen experts, their gate weights and the norms of their outputs before the weights, each [T, K]."""


@contextmanager
def observed(
    model: PreTrainedModel, layers: Mapping[int, MoeLayer], observers: Mapping[int, Observer]
) -> Iterator[None]:
    """Call a layer's observer (layer number → observer) at each call of its experts while the block runs.

    Raises MethodError where transformers does not let the model's experts be run by another implementation.
    """
    before = model.config._experts_implementation
    for index, observer in observers.items():
        layers[index].experts.__dict__[OBSERVER] = observer  # no module's parameter, buffer or child
    try:
        plug_in(model, layers, IMPLEMENTATION)
        yield
    finally:
        model.set_experts_implementation(before)
        for index in observers:
            del layers[index].experts.__dict__[OBSERVER]


def observed_experts_forward(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The forward transformers calls for an experts module: [T, H], [T, K], [T, K] → [T, H]."""
    keys, order = torch.sort(top_k_index.reshape(-1))
    ends = torch.searchsorted(keys, torch.arange(experts.num_experts, device=keys.device), right=True).to(torch.int32)
    rows = hidden_states[order // top_k_index.shape[1]]
    up, activate = ("gate_up_proj", experts._apply_gate) if experts.has_gate else ("up_proj", experts.act_fn)
    rows = activate(_linear(experts, up, rows, keys, ends))
    rows = _linear(experts, "down_proj", rows, keys, ends)
    back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)[back].view_as(top_k_weights)
    experts.__dict__[OBSERVER](top_k_index, top_k_weights, norms)
    weighted = (rows * top_k_weights.reshape(-1)[order].unsqueeze(1))[back]  # [N, H]
    return weighted.view(*top_k_index.shape, -1).sum(1).to(hidden_states.dtype)


def _linear(experts: Any, name: str, rows: Tensor, keys: Tensor, ends: Tensor) -> Tensor:
    """One projection of rows [N, …] sorted by expert: `keys` [N] are their experts, `ends` [E] where each one's end."""
    bias = _weights(experts, f"{name}_bias")[keys] if experts.has_bias else None
    transposed = experts.is_transposed
    if factors := getattr(experts, UPDATES, {}).get(name):
        updated = updated_product(rows, _weights(experts, name), factors(), Groups(ends, transposed))
        return updated if bias is None else updated + bias
    out: Tensor = _grouped_linear(rows, _weights(experts, name), ends, bias=bias, is_transposed=transposed)
    return out


def _weights(experts: Any, name: str) -> Tensor:
    """A fused tensor of all experts, with those that are being trained in banks of their own in their places."""
    fused: Any = weights_of(experts, name)
    fused = fused.to(experts.__dict__[ORIGINAL]) if isinstance(fused, Packed) else fused
    bank = bank_weights(experts, next((bank for bank, source in BANK.items() if source == name), ""))
    whole: Tensor = fused if bank is None else fused.index_copy(0, experts.selected_experts, bank.to(fused.dtype))
    return whole


register(IMPLEMENTATION, observed_experts_forward)
