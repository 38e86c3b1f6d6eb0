"""Checkpoints of a training run: trained weights, optimizer state and log in one safetensors file.

Tensors are whole in it, however the processes share them (FSDP2 shards them), so a run may go on, or be exported, with
another number of processes than it began with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from esft_bench.methods.atomic import write_tensors

CHECKPOINT = "checkpoint.safetensors"
STATE = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of a parameter."""


@dataclass
class TrainingLog:
    """What a training run leaves behind besides weights: loss and gradient norm of each step.

    `validation` holds pairs of step and loss on held-out rows; `chosen` is the step whose weights stayed, None for the
    last.
    """

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    chosen: int | None = None


def save(
    scratch: Path,
    model: nn.Module,
    names: Sequence[str],
    optimizer: torch.optim.Optimizer,
    log: TrainingLog,
    step: int,
    *,
    write: bool = True,
    with_state: bool = True,
) -> None:
    """Write a checkpoint into `scratch`, beside and renamed. Every process calls this, the main one has `write`.

    `with_state` False leaves the optimizer state out: the run is over.
    """
    trained = dict(model.named_parameters())
    tensors = {f"weight/{name}": _kept(trained[name], write) for name in names}
    for name in names if with_state else ():
        for key, value in optimizer.state[trained[name]].items():
            tensors[f"state/{key}/{name}"] = _kept(torch.as_tensor(value), write)
    if write:
        tensors["losses"] = torch.tensor(log.losses, dtype=torch.float64)
        tensors["gradient_norms"] = torch.tensor(log.gradient_norms, dtype=torch.float64)
        tensors["validation"] = torch.tensor(log.validation, dtype=torch.float64).reshape(-1, 2)
        write_tensors(scratch / CHECKPOINT, tensors, {"step": str(step)})


def load(
    scratch: Path, model: nn.Module, names: Sequence[str], optimizer: torch.optim.Optimizer, log: TrainingLog
) -> int:
    """Load the checkpoint in `scratch`, if there is one, into model, optimizer and log; returns the steps done."""
    path = scratch / CHECKPOINT
    if not path.exists():
        return 0
    trained = dict(model.named_parameters())
    with safe_open(path, "pt") as file:
        keys = set(file.keys())
        for name in names:
            parameter = trained[name]
            with torch.no_grad():
                parameter.copy_(_shared_like(parameter, file.get_tensor(f"weight/{name}")))
            state = {key: f"state/{key}/{name}" for key in STATE if f"state/{key}/{name}" in keys}
            optimizer.state[parameter] = {
                key: _shared_like(parameter, file.get_tensor(entry)) for key, entry in state.items()
            }
        log.losses += file.get_tensor("losses").tolist()
        log.gradient_norms += file.get_tensor("gradient_norms").tolist()
        log.validation += [(int(step), loss) for step, loss in file.get_tensor("validation").tolist()]
        return int(file.metadata()["step"])


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that processes may share; all of them must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _kept(tensor: Tensor, keep: bool) -> Tensor:
    """The whole of a tensor in main memory, or nothing of it."""
    gathered = whole(tensor.detach())
    return gathered.cpu() if keep else gathered.new_empty(0)


def _shared_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor on the parameter's device, shared among processes as the parameter is."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return tensor
