"""A training as it stands: the model, what the optimizer remembers, and the log."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from esft_bench.harness.training.log import TrainingLog
from esft_bench.harness.training.optimizer import retarget
from esft_bench.methods.changes import Changes, Moved
from esft_bench.methods.moe.expert_parallel import rows_of

STEPS = "step"
"""What every optimizer here remembers of a parameter that it has moved, besides moments: how often."""


@dataclass
class State:
    """A training as it stands, and what a checkpoint keeps of it: trained parameters, optimizer state and log.

    `training` says which training it is, `changes` what changes what is trained. Without an optimizer the training is
    over.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    log: TrainingLog
    training: str = ""
    changes: Changes | None = None

    @property
    def names(self) -> list[str]:
        """Those of the trained parameters."""
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def retarget(self, moved: Moved) -> None:
        """Have the optimizer train what is trained now."""
        if self.optimizer:
            retarget(self.optimizer, [each for each in self.model.parameters() if each.requires_grad], moved)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained parameters, by name."""
        trained = dict(self.model.named_parameters())
        found = dict[str, Tensor]()
        for name in self.names:
            found |= _named(name, trained[name].detach(), trained[name])
        return found

    @property
    def moments(self) -> dict[str, Tensor]:
        """What the optimizer remembers of them, by what it is and whose."""
        trained, found = dict(self.model.named_parameters()), dict[str, Tensor]()
        remembered = self.optimizer.state if self.optimizer else {}
        for name in self.names if remembered else ():
            for key, value in remembered[trained[name]].items():
                for part, tensor in _parts(key, torch.as_tensor(value)).items():
                    found |= _named(f"{part}/{name}", tensor, trained[name])
        return found


def _named(name: str, tensor: Tensor, of: nn.Parameter) -> dict[str, Tensor]:
    """A parameter's tensor by its name; where the parameter is some rows of a bank, each of these by its number."""
    rows = rows_of(of)
    if rows is None or tensor.shape != of.shape:
        return {name: tensor}
    return {f"{name}[{row}]": own for row, own in zip(rows.held, tensor, strict=True)}


def make_states(model: nn.Module, names: Sequence[str], optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer make its own states, of whatever types, by a step on no gradient; weights are read after it."""
    trained = dict(model.named_parameters())
    for name in names:
        trained[name].grad = torch.zeros_like(trained[name])
    optimizer.step()
    optimizer.zero_grad()


def _parts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor by its name, or what it is made of where it is no plain one (moments in 8 bits: codes and scales)."""
    if isinstance(tensor, DTensor) or not hasattr(tensor, "__tensor_flatten__"):
        return {name: tensor}
    return {f"{name}.{part}": getattr(tensor, part) for part in tensor.__tensor_flatten__()[0]}
