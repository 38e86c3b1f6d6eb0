"""One model shared out over the processes that train it (FSDP2): each holds a shard of every tensor.

The main process reads the checkpoint into main memory; the others make a model without weights (on the meta device) and
get their shards from it, one tensor at a time, while it lets go of what it has given away. So a node holds one copy of
the model, and a device its shards and, at work, one layer.
"""

import os
from collections.abc import Iterator

import torch
from accelerate import PartialState
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import distribute_tensor

from esft_bench.harness.training.loss import AnswerLoss

SHARDED = "ESFT_BENCH_SHARDED"
"""Environment variable: `1` where the processes of a training share one model, `0` where each holds a whole one (DDP).

Without it they share it on accelerators, and on processors do not.
"""


def sharded() -> bool:
    """Whether processes that train together share one model."""
    told = os.environ.get(SHARDED)
    return torch.cuda.is_available() if told is None else told == "1"


def shares_a_model() -> bool:
    """Whether this process shares the model it trains with others."""
    return distributed.is_initialized() and sharded()


def read_onto() -> str | None:
    """The device that this process loads a model onto, to share it: `cpu`, or `meta` where another reads the weights.

    None where it does not share it.
    """
    if not shares_a_model():
        return None
    return "cpu" if PartialState().is_main_process else "meta"


def share_out(loss_module: AnswerLoss, device: torch.device, mixed_precision: str, dtype: torch.dtype) -> None:
    """Shard a module that was loaded `read_onto`, in place, layer by layer; every process calls this.

    What is trained becomes `dtype`. Parameters are new ones afterwards. With `mixed_precision` "bf16" layers compute in
    bfloat16, and gradients are summed in float32.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    values = _take_values(loss_module, dtype)
    bf16 = mixed_precision == "bf16"  # accelerate's own policy would reduce gradients in bf16, too
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    layers = set(loss_module._no_split_modules or ())
    for module in reversed(list(loss_module.modules())):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(loss_module, mesh=mesh, mp_policy=policy)
    _give_values(loss_module, values, mesh)
    for module, name, buffer in _buffers(loss_module):
        full = buffer.to(device) if not buffer.is_meta else torch.empty_like(buffer, device=device)
        distributed.broadcast(full, 0)
        module._buffers[name] = full


def _take_values(whole: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Leave a module without values (meta), trained parameters in `dtype`; returns what they were, by name."""
    values: dict[str, Tensor] = {}
    empty: dict[nn.Parameter, nn.Parameter] = {}
    for path, module in whole.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if parameter not in empty:  # tied ones stay tied
                kept = dtype if parameter.requires_grad else parameter.dtype
                shape = torch.empty_like(parameter, dtype=kept, device="meta")
                empty[parameter] = nn.Parameter(shape, parameter.requires_grad)
                values[f"{path}.{name}".lstrip(".")] = parameter.detach()
            module._parameters[name] = empty[parameter]
    return values


def _give_values(whole: nn.Module, values: dict[str, Tensor], mesh: DeviceMesh) -> None:
    """Fill the shards of a module from what the main process has in `values`, and empty these."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in whole.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(parameter, []).append((module, name))
    reads = PartialState().is_main_process
    for name, parameter in list(whole.named_parameters()):
        full = values.pop(name)
        device, dtype = mesh.device_type, parameter.dtype
        full = full.to(device, dtype).contiguous() if reads else torch.empty(full.shape, device=device, dtype=dtype)
        shard = distribute_tensor(full, mesh, parameter.placements, src_data_rank=0)  # type: ignore[attr-defined]
        del full
        filled = nn.Parameter(shard, parameter.requires_grad)
        for module, key in places[parameter]:
            module._parameters[key] = filled


def _buffers(whole: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """All buffers, with the modules that have them and their names there."""
    for module in whole.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                yield module, name, buffer
