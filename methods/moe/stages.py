"""Stages of a training that each train more experts, while the loss on held-out rows falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.changes import Done
from esft_bench.methods.moe.changing import ExpertChanges
from esft_bench.methods.moe.selection import Selection


class Stages(ExpertChanges):
    """Train the next of `later` every so many steps, until there is none or the last look saw no lower loss."""

    def __init__(self, model: PreTrainedModel, later: Sequence[Selection], every: int) -> None:
        super().__init__(model)
        self.later, self.every = later, every
        self.begun = 0
        self.over = False

    def selection_after(self, done: Done) -> Selection | None:
        """The next stage's experts at its time."""
        if self.over or done.step % self.every or self.begun == len(self.later):
            return None
        *before, last = done.held_out or (0.0,)
        self.over = bool(before) and last >= before[-1]
        if self.over:
            return None
        self.begun += 1
        return self.later[self.begun - 1]

    def state_dict(self) -> dict[str, Tensor]:
        """The experts, how many later stages have begun, and whether no other is to."""
        return {**super().state_dict(), "stages": torch.tensor([self.begun, int(self.over)])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on at the stage that it was at."""
        super().load_state_dict(state)
        self.begun, over = state["stages"].tolist()
        self.over = bool(over)
