"""Checkpoints of a training run: trained weights, optimizer and random states and the log in one safetensors file.

Tensors are whole in it, however the processes share them (FSDP2 shards them), so a run may go on, or be exported, with
another number of processes than it began with.

It says which training it is of and bears a digest of all it holds, so that none that is damaged, or another's, is gone
on from. The digest is XXH3, since weights and optimizer states are many bytes and written often; it tells damage, not
forgery.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from xxhash import xxh3_128

from esft_bench.methods.atomic import write_tensors
from esft_bench.spec.files import canonical, remove

CHECKPOINT = "checkpoint.safetensors"
DIGEST = "digest"
STATE = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of a parameter."""


@dataclass
class TrainingLog:
    """What a training run leaves behind besides weights: loss and gradient norm of each step.

    Pairs with a step are the loss on held-out rows (`validation`), the score (`scores`) and the routers' average scores
    [K, L, E] (`routing`); `chosen` is the step whose weights stayed, None for the last. `looks` are the wall and the
    processor seconds that went into looking, not into training.
    """

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    routing: list[tuple[int, Tensor]] = field(default_factory=list)
    chosen: int | None = None
    looks: list[float] = field(default_factory=lambda: [0.0, 0.0], compare=False)

    def add(self, loss: float, norm: float) -> None:
        """Note a step's loss and gradient norm."""
        self.losses.append(loss)
        self.gradient_norms.append(norm)

    @property
    def told(self) -> dict[str, Any]:
        """All but the routing and the time, which no two runs share, as JSON has it."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("routing", "looks")}


@dataclass
class State:
    """A training as it stands, and what a checkpoint keeps of it: trained parameters, optimizer state and log.

    `names` are those of the trained parameters in `model`, `training` says which training it is.
    """

    model: nn.Module
    names: Sequence[str]
    optimizer: torch.optim.Optimizer
    log: TrainingLog
    training: str = ""


def save(scratch: Path, state: State, step: int, *, resumable: bool = True) -> None:
    """Write a checkpoint into `scratch`, beside and renamed. Every process calls this, the main one writes.

    Not `resumable` it holds weights and log alone: the run is over.
    """
    write = PartialState().is_main_process
    trained = dict(state.model.named_parameters())
    tensors = {f"weight/{name}": _kept(trained[name], write) for name in state.names}
    for name in state.names if resumable else ():
        for key, value in state.optimizer.state[trained[name]].items():
            for part, tensor in _parts(key, torch.as_tensor(value)).items():
                tensors[f"state/{part}/{name}"] = _kept(tensor, write)
    tensors |= _random_states() if resumable else {}
    if write:
        tensors |= _logged(state.log)
        about = {"step": str(step), "training": state.training}
        write_tensors(scratch / CHECKPOINT, tensors, {**about, DIGEST: _digest(about, tensors)})


def load(scratch: Path, state: State) -> int:
    """Load the checkpoint in `scratch`, if there is one, into `state`; returns the steps done.

    The random generators go on where they stood. A process that had no part in the run before keeps its own.
    """
    path = scratch / CHECKPOINT
    if not path.exists():
        return 0
    trained = dict(state.model.named_parameters())
    with safe_open(path, "pt") as file, torch.no_grad():
        keys = set(file.keys())
        if any(key.startswith("state/") for key in keys):
            _make_states(state.optimizer, [trained[name] for name in state.names])
            for name in state.names:
                made = state.optimizer.state[trained[name]]
                for part, kept in ((p, t) for key in STATE for p, t in _parts(key, made[key]).items()):
                    kept.copy_(_shared_like(kept, file.get_tensor(f"state/{part}/{name}")))
        for name in state.names:
            parameter = trained[name]
            parameter.copy_(_shared_like(parameter, file.get_tensor(f"weight/{name}")))
        for kind, (_, restore) in _generators().items():
            if (entry := f"random/{kind}/{PartialState().process_index}") in keys:
                restore(file.get_tensor(entry))
        _read_log({name: file.get_tensor(name) for name in keys & LOGGED}, state.log)
        return int(file.metadata()["step"])


LOGGED = {"losses", "gradient_norms", "validation", "scores", "looks", "routing_steps", "routing"}
"""Tensors of the log."""


def _logged(log: TrainingLog) -> dict[str, Tensor]:
    """The log as tensors."""
    lists = ("losses", "gradient_norms", "looks")
    tensors = {name: torch.tensor(getattr(log, name), dtype=torch.float64) for name in lists}
    pairs = {name: torch.tensor(getattr(log, name), dtype=torch.float64) for name in ("validation", "scores")}
    tensors |= {name: pair.reshape(-1, 2) for name, pair in pairs.items()}
    if log.routing:
        tensors["routing_steps"] = torch.tensor([step for step, _ in log.routing])
        tensors["routing"] = torch.stack([scores for _, scores in log.routing])
    return tensors


def _read_log(tensors: Mapping[str, Tensor], log: TrainingLog) -> None:
    """Add what `_logged` made of another log."""
    log.losses += tensors["losses"].tolist()
    log.gradient_norms += tensors["gradient_norms"].tolist()
    log.validation += [(int(step), loss) for step, loss in tensors["validation"].tolist()]
    log.scores += [(int(step), score) for step, score in tensors["scores"].tolist()]
    log.looks = [sum(pair) for pair in zip(log.looks, tensors["looks"].tolist(), strict=True)]
    if "routing" in tensors:
        log.routing += zip(tensors["routing_steps"].tolist(), tensors["routing"], strict=True)


def fault(scratch: Path, training: str) -> str:
    """What is wrong with the checkpoint in `scratch`, all of which is read; empty where nothing is or there is none."""
    path = scratch / CHECKPOINT
    if not os.path.lexists(path):
        return ""
    try:
        with safe_open(path, "pt") as file:
            about = dict(file.metadata())
            about.pop("format", None)
            told = about.pop(DIGEST, "")
            if told != _digest(about, {name: file.get_tensor(name) for name in file.keys()}):  # noqa: SIM118 - no dict
                return f"{path} is not what was written"
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        return f"{path} cannot be read ({error})"
    return "" if about["training"] == training else f"{path} is of another training"


def _digest(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """A digest of a checkpoint: what it says about itself, and each tensor's name, type, shape and bytes."""
    total = xxh3_128(canonical(about).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def forget(*folders: Path) -> None:
    """Remove the checkpoints in some folders: nothing is to go on from there. Every process may call this."""
    for folder in folders:
        remove(folder / CHECKPOINT)


def _generators() -> Mapping[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]]:
    """How to read and restore the generators that models draw from in training (dropout, jitter), by device."""
    found = {"cpu": (torch.get_rng_state, torch.set_rng_state)}
    if torch.cuda.is_available():
        found["cuda"] = (torch.cuda.get_rng_state, torch.cuda.set_rng_state)
    return found


def _random_states() -> dict[str, Tensor]:
    """The states of every process's generators, in all of them; all must call this."""
    own = {kind: read() for kind, (read, _) in _generators().items()}
    everyone = gather_object([own])
    return {f"random/{kind}/{number}": state for number, one in enumerate(everyone) for kind, state in one.items()}


def _make_states(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """Let an optimizer make its own states, of whatever types, by a step on no gradient; weights are read after it."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that processes may share; all of them must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _kept(tensor: Tensor, keep: bool) -> Tensor:
    """The whole of a tensor in main memory, or nothing of it."""
    gathered = whole(tensor.detach())
    return gathered.cpu() if keep else gathered.new_empty(0)


def _parts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor by its name, or what it is made of where it is no plain one (moments in 8 bits: codes and scales)."""
    if isinstance(tensor, DTensor) or not hasattr(tensor, "__tensor_flatten__"):
        return {name: tensor}
    return {f"{name}.{part}": getattr(tensor, part) for part in tensor.__tensor_flatten__()[0]}


def _shared_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor on the parameter's device, shared among processes as the parameter is."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return tensor
