"""The log of a training run, and its form in a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

LOGGED = {"losses", "gradient_norms", "validation", "scores", "looks", "routing_steps", "routing"}
"""Tensors of the log."""


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


def logged(log: TrainingLog) -> dict[str, Tensor]:
    """The log as tensors."""
    lists = ("losses", "gradient_norms", "looks")
    tensors = {name: torch.tensor(getattr(log, name), dtype=torch.float64) for name in lists}
    pairs = {name: torch.tensor(getattr(log, name), dtype=torch.float64) for name in ("validation", "scores")}
    tensors |= {name: pair.reshape(-1, 2) for name, pair in pairs.items()}
    if log.routing:
        tensors["routing_steps"] = torch.tensor([step for step, _ in log.routing])
        tensors["routing"] = torch.stack([scores for _, scores in log.routing])
    return tensors


def read_log(tensors: Mapping[str, Tensor], log: TrainingLog) -> None:
    """Add what `logged` made of another log."""
    log.losses += tensors["losses"].tolist()
    log.gradient_norms += tensors["gradient_norms"].tolist()
    log.validation += [(int(step), loss) for step, loss in tensors["validation"].tolist()]
    log.scores += [(int(step), score) for step, score in tensors["scores"].tolist()]
    log.looks = [sum(pair) for pair in zip(log.looks, tensors["looks"].tolist(), strict=True)]
    if "routing" in tensors:
        log.routing += zip(tensors["routing_steps"].tolist(), tensors["routing"], strict=True)
