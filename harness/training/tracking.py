"""How routing moves while a model trains: the routers' average scores, measured every so many steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn

from esft_bench.harness.store.names import ROUTING_STEPS
from esft_bench.harness.training.looking import apart, at_rest
from esft_bench.harness.training.state import State
from esft_bench.methods.atomic import write_tensors
from esft_bench.spec.training import Training

Measure = Callable[[], Tensor | None]
"""Measures the average routing scores of K data sets, [K, L, E] float64; None where the routers do not tell them."""


class Tracking:
    """Measures before the first step, every `settings.profile_every` steps, and at the end."""

    def __init__(self, measure: Measure | None, settings: Training) -> None:
        self.measure, self.settings = measure, settings

    def after(self, step: int, accelerator: Accelerator, loss_module: nn.Module, state: State) -> None:
        """Measure if it is time. Every process calls this."""
        every = self.settings.profile_every
        if every is None or self.measure is None or (step % every and step != self.settings.steps):
            return
        with apart(state.log), at_rest(accelerator, loss_module):
            scores = self.measure()
        if scores is not None:
            state.log.routing.append((step, scores))


@dataclass(frozen=True)
class Tracked:
    """What was measured in a training: pairs of step and scores [K, L, E], and how many experts a token is sent to."""

    points: Sequence[tuple[int, Tensor]]
    top_k: int

    def save(self, folder: Path) -> None:
        """Write it, if it is anything, into a training's artifact."""
        if self.points:
            steps, scores = zip(*self.points, strict=True)
            told = {"steps": torch.tensor(steps), "scores": torch.stack(scores), "top_k": torch.tensor(self.top_k)}
            write_tensors(folder / ROUTING_STEPS, told)

    @classmethod
    def load(cls, folder: Path) -> "Tracked":
        """Read what `save` wrote; nothing where nothing was measured."""
        path = folder / ROUTING_STEPS
        if not path.exists():
            return cls([], 0)
        with safe_open(path, "pt") as file:
            points = zip(file.get_tensor("steps").tolist(), file.get_tensor("scores"), strict=True)
            return cls(list(points), int(file.get_tensor("top_k")))
