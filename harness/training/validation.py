"""The loss on rows held out of a task's training data, measured now and then, and the weights it was lowest with.

The rows come from the training data, never from the test items.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from esft_bench.harness.training import checkpoint
from esft_bench.harness.training.checkpoint import CHECKPOINT, State, TrainingLog
from esft_bench.harness.training.data import IGNORED, Sample, stack
from esft_bench.spec.files import made_folder
from esft_bench.spec.suite import Training

BATCH = 8
BEST = "best"
"""Where, in a step's scratch, the weights with the lowest loss so far are kept."""


def best_of(training: str) -> str:
    """What the checkpoint of a training's best weights says it is of."""
    return f"{training}/{BEST}"


class Validation:
    """Measures the loss on `samples`, cut to the sequence length, every `settings.evaluate_every` steps and at the end.

    With `settings.choose` "best" the weights with the lowest one, the earlier where two are equal, are those that stay.
    """

    def __init__(self, samples: Sequence[Sample], settings: Training, scratch: Path) -> None:
        length = settings.sequence_length
        self.samples = [Sample(sample.ids[:length], sample.labels[:length]) for sample in samples]
        self.settings = settings
        self.best = scratch / BEST

    def after(self, step: int, accelerator: Accelerator, loss_module: nn.Module, state: State) -> None:
        """Measure if it is time, and keep the weights if they are the best so far. Every process calls this."""
        if self.settings.evaluate_every is None:
            return
        if step % self.settings.evaluate_every and step != self.settings.steps:
            return
        loss = self._loss(accelerator, loss_module)
        if self.settings.choose == "best" and all(loss < earlier for _, earlier in state.log.validation):
            made_folder(self.best)
            checkpoint.save(self.best, replace(state, training=best_of(state.training)), step, resumable=False)
        state.log.validation.append((step, loss))

    def restore(self, state: State) -> None:
        """Put the best weights in place of the last ones, where the settings ask for it."""
        if (self.best / CHECKPOINT).exists():
            state.log.chosen = checkpoint.load(self.best, replace(state, log=TrainingLog()))

    @torch.no_grad()
    def _loss(self, accelerator: Accelerator, loss_module: nn.Module) -> float:
        """Mean over the supervised tokens of all samples; every process works through all of them."""
        loss_module.eval()
        total = torch.zeros((), device=accelerator.device)
        for start in range(0, len(self.samples), BATCH):
            batch = _padded(self.samples[start : start + BATCH])
            inputs = {name: tensor.to(accelerator.device) for name, tensor in stack(batch).items()}
            total += loss_module(**inputs).detach()
        loss_module.train()
        tokens = sum(label != IGNORED for sample in self.samples for label in sample.labels[1:])
        return float(total) / max(1, tokens)


def _padded(samples: Sequence[Sample]) -> list[Sample]:
    """Samples of one length. What pads them follows them and counts for nothing, so they do not feel it."""
    longest = max(len(sample.ids) for sample in samples)
    return [
        Sample(
            [*sample.ids, *[sample.ids[0]] * (longest - len(sample.ids))],
            [*sample.labels, *[IGNORED] * (longest - len(sample.ids))],
        )
        for sample in samples
    ]
