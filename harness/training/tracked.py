"""What was measured of a training's routing, as its artifact keeps it. Imports no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from esft_bench.harness.store.names import ROUTING_STEPS
from esft_bench.methods.atomic import write_tensors


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
