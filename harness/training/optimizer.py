"""The optimizers a suite may name: AdamW, and two that need less memory for what is trained. Every row has the same.

Bytes for each trained parameter, its gradient among them: `adamw` 16, `adamw-8bit` 10 (moments in 8 bits, by blocks),
`adamw-bf16-stochastic` 8 (all in bfloat16, weights rounded up or down at random so that small steps count on average).
The latter two are torchao's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from esft_bench.spec.training import Optimizer, Training

if TYPE_CHECKING:
    from esft_bench.methods.changes import Moved


def held_in(name: Optimizer) -> torch.dtype:
    """The type of weights and gradients while they are trained."""
    return torch.bfloat16 if name == "adamw-bf16-stochastic" else torch.float32


def make(
    settings: Training, parameters: Sequence[nn.Parameter], factors: Mapping[int, float] | None = None
) -> torch.optim.Optimizer:
    """The optimizer of `settings`, with a group of parameters for each factor of the learning rate, by parameter id.

    Parameters that processes share, and those that each has for itself, are not moved by one kernel: they have groups
    of their own.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in parameters:
        factor = (factors or {}).get(id(parameter), 1.0)
        groups.setdefault((factor, isinstance(parameter, DTensor)), []).append(parameter)
    by_rate = [{"params": group, "lr": factor * settings.learning_rate} for (factor, _), group in groups.items()]
    told: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas}
    made: torch.optim.Optimizer = _kind(settings.optimizer)(by_rate, **told, weight_decay=settings.weight_decay)
    return made


def _kind(name: Optimizer) -> Any:
    """What makes the optimizer of that name from groups of parameters."""
    if name == "adamw":
        return lambda groups, **told: torch.optim.AdamW(groups, fused=True, **told)
    from torchao.optim import AdamW8bit, _AdamW  # here: an extra

    if not torch.accelerator.is_available():
        torch.compiler.set_stance("force_eager")  # torchao compiles its step, for which a processor may lack a compiler
    if name == "adamw-8bit":
        return AdamW8bit
    return lambda groups, **told: _AdamW(groups, bf16_stochastic_round=True, **told)


def retarget(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], moved: Moved) -> None:
    """Have an optimizer train `parameters` from now on, in place.

    Those that it trained before keep their states, rows of those (`moved`) their rows of the states, and of parameters
    that are gone nothing is kept. New ones are trained as its first group is.
    """
    groups, states = optimizer.param_groups, optimizer.state
    group_of = {parameter: group for group in groups for parameter in group["params"]}
    remembered = dict(states)
    states.clear()
    for group in groups:
        group["params"] = []
    for parameter in parameters:
        before, rows = moved.get(parameter, (parameter, None))
        group_of.get(before, groups[0])["params"].append(parameter)
        if before in remembered:
            states[parameter] = {
                key: value[rows] if rows is not None and value.shape == before.shape else value
                for key, value in remembered[before].items()
            }
