"""One model shared out over the processes that train it (FSDP2): each holds a shard of every tensor.

The main process reads the checkpoint into main memory; the others make a model without weights (on the meta device) and
get their shards from it, one tensor at a time, while it lets go of what it has given away. So a node holds one copy of
the model, and a device its shards and, at work, one layer.

With `training.expert_parallel` nobody has the whole of it at any time: each process reads the experts that it is to
hold from the checkpoint, and the main one the tensors of all else, one by one.
"""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm

from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.together.machines import SHARDED
from esft_bench.methods.moe.expert_parallel import hold_own_experts
from esft_bench.methods.moe.places import read_tensor
from esft_bench.methods.tensor_files import tensor_files


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


def share_out(
    loss_module: AnswerLoss,
    device: torch.device,
    mixed_precision: str,
    dtype: torch.dtype,
    checkpoint: Path | None = None,
) -> None:
    """Shard a module that was loaded `read_onto`, in place, layer by layer; every process calls this.

    What is trained becomes `dtype`. Parameters are new ones afterwards. With `mixed_precision` "bf16" layers compute in
    bfloat16, and gradients are summed in float32. With a `checkpoint` the module has no values yet: they are read from
    there, and each process holds experts of its own.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    files = tensor_files(checkpoint) if checkpoint else None
    own = hold_own_experts(loss_module.model, files, mesh, dtype) if files else []
    apart = {parameter for module in own for parameter in module.parameters()}
    values = _take_values(loss_module, dtype, apart)
    bf16 = mixed_precision == "bf16"  # accelerate's own policy would reduce gradients in bf16, too
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    layers = set(loss_module._no_split_modules or ())
    for module in reversed(list(loss_module.modules())):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=apart)
    fully_shard(loss_module, mesh=mesh, mp_policy=policy, ignored_params=apart)

    def read(name: str) -> Tensor:
        made = values.pop(name, None)  # what the method has added
        if made is not None and not made.is_meta:
            return made
        assert files is not None
        return read_tensor(loss_module.model, name.removeprefix("model."), files)

    _give_values(loss_module, read, mesh)
    _give_buffers(loss_module, own, device, read)


def give_room(model: nn.Module) -> None:
    """Let what a model trains have room in main memory, where it has shapes alone; for what others have trained."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad and parameter.is_meta:
                module._parameters[name] = nn.Parameter(torch.empty_like(parameter, device="cpu"))


def clip(parameters: Collection[nn.Parameter], most: float) -> float:
    """Scale gradients so that the norm of all is `most` at most; returns what it was. Every process calls this.

    Some parameters may be shared (DTensors), and of the others each process has its own.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    shared = [each for each in gradients if isinstance(each, DTensor)]
    own = get_total_norm([each for each in gradients if not isinstance(each, DTensor)])
    squares = own.double().to(PartialState().device) ** 2
    distributed.all_reduce(squares)
    rest = get_total_norm(shared)
    norm: float = (float(squares) + float(rest.full_tensor() if isinstance(rest, DTensor) else rest) ** 2) ** 0.5
    for gradient in gradients:
        gradient.mul_(min(1.0, most / (norm + 1e-6)))  # as torch's clip_grad_norm_
    return norm


def _take_values(whole: nn.Module, dtype: torch.dtype, apart: Collection[nn.Parameter]) -> dict[str, Tensor]:
    """Leave a module without values (meta), trained parameters in `dtype`; returns what they were, by name.

    Parameters that stay `apart` are left alone.
    """
    values: dict[str, Tensor] = {}
    empty: dict[nn.Parameter, nn.Parameter] = {}
    for path, module in whole.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None or parameter in apart:
                continue
            if parameter not in empty:  # tied ones stay tied
                kept = dtype if parameter.requires_grad else parameter.dtype
                shape = torch.empty_like(parameter, dtype=kept, device="meta")
                empty[parameter] = nn.Parameter(shape, parameter.requires_grad)
                values[f"{path}.{name}".lstrip(".")] = parameter.detach()
            module._parameters[name] = empty[parameter]
    return values


def _give_values(whole: nn.Module, read: Callable[[str], Tensor], mesh: DeviceMesh) -> None:
    """Fill the shards of a module from what the main process can `read`, each by its name, once."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in whole.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(parameter, []).append((module, name))
    reads = PartialState().is_main_process
    for name, parameter in list(whole.named_parameters()):
        if not isinstance(parameter, DTensor):
            continue
        device, dtype, shape = mesh.device_type, parameter.dtype, parameter.shape
        full = read(name).to(device, dtype).contiguous() if reads else torch.empty(shape, device=device, dtype=dtype)
        shard = distribute_tensor(full, mesh, parameter.placements, src_data_rank=0)
        del full
        filled = nn.Parameter(shard, parameter.requires_grad)
        for module, key in places[parameter]:
            module._parameters[key] = filled


def _give_buffers(
    whole: nn.Module, apart: Collection[nn.Module], device: torch.device, read: Callable[[str], Tensor]
) -> None:
    """Give all processes the main one's buffers, on `device`; those without values there it must `read`."""
    reads = PartialState().is_main_process
    for name, module, key, buffer in _buffers(whole):
        if module in apart:
            continue
        value = read(name) if reads and buffer.is_meta else buffer
        full = value.to(device) if reads else torch.empty_like(buffer, device=device)
        distributed.broadcast(full, 0)
        module._buffers[key] = full


def _buffers(whole: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """All buffers by their names, with the modules that have them and their names there."""
    for path, module in whole.named_modules():
        for key, buffer in list(module._buffers.items()):
            if buffer is not None:
                yield f"{path}.{key}".lstrip("."), module, key, buffer
