"""Others' kernels for the experts, plugged into transformers' registry as ours are: SonicMoE and ScatterMoE.

transformers fetches SonicMoE from the hub, where the machine has no way to; here it is the package `sonic-moe`. Both
packages are optional: a row whose package is missing says so.
"""

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS


def scattermoe_forward(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """ScatterMoE (arXiv 2403.08245): products that gather their rows and scatter their results."""
    from scattermoe.parallel_experts import parallel_linear

    place, order = index.flatten().sort()
    ends = place.bincount(minlength=experts.num_experts).cumsum(0)
    sort = (place, order, ends)
    up = experts.gate_up_proj.transpose(1, 2)
    inner = experts._apply_gate(parallel_linear(hidden, up, index.shape[1], *sort, grouped_out=True))
    down, gates = experts.down_proj.transpose(1, 2), weights.to(hidden.dtype)
    out: Tensor = parallel_linear(inner, down, 1, *sort, grouped_in=True, gates=gates)
    return out


def sonicmoe_forward(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """SonicMoE (arXiv 2512.14080), called as transformers' own integration calls it."""
    from sonicmoe import moe_general_routing_inputs
    from sonicmoe.enums import ActivationType

    _take_default_tiles()
    tokens, top_k = index.shape
    token = torch.arange(tokens, device=index.device, dtype=torch.int32).repeat_interleave(top_k)
    out: Tensor = moe_general_routing_inputs(
        hidden,
        weights.flatten().to(hidden.dtype),
        token,
        index.flatten().int(),
        experts.gate_up_proj.permute(1, 2, 0),
        None,
        experts.down_proj.permute(1, 2, 0),
        None,
        E=experts.num_experts,
        stream_id=torch.cuda.current_stream().cuda_stream,
        activation_type=ActivationType.SWIGLU,
        concat_layout=True,
    )[0]
    return out


def _take_default_tiles() -> None:
    """Have SonicMoE's products take their default tiles: trying all of them takes minutes at each new shape."""
    products = import_module("quack.gemm_interface")
    for module in map(import_module, ("sonicmoe.functional.forward", "sonicmoe.functional.backward")):
        for name in ("gemm", "gemm_gated", "gemm_dgated"):
            if hasattr(module, name):
                setattr(module, name, partial(getattr(products, name), tuned=False))


ALL_EXPERTS_FUNCTIONS.register("scattermoe", scattermoe_forward)
ALL_EXPERTS_FUNCTIONS.register("sonicmoe-package", sonicmoe_forward)
