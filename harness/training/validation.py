"""A look at a training now and then, at the loss on held-out rows and at a score, and the weights that did best.

Held-out rows come from the training data; only a suite that says `evaluate_on: benchmark` has test items looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from esft_bench.harness.training import checkpoint
from esft_bench.harness.training.checkpoint import Writer
from esft_bench.harness.training.data import IGNORED, Sample, stack
from esft_bench.harness.training.log import TrainingLog
from esft_bench.harness.training.looking import apart, at_rest
from esft_bench.harness.training.state import State
from esft_bench.spec.files import made_folder
from esft_bench.spec.training import Training

BATCH = 8
BEST = "best"
"""Where, in a step's scratch, the weights with the lowest loss so far are kept."""


def best_of(training: str) -> str:
    """What the checkpoint of a training's best weights says it is of."""
    return f"{training}/{BEST}"


def drop_damaged(scratch: Path) -> list[str]:
    """Drop what an earlier attempt left to go on from, where any of it is damaged; returns what is to be said of it."""
    kept = {scratch: scratch.name, scratch / BEST: best_of(scratch.name)}
    faults = [what for folder, training in kept.items() if (what := checkpoint.fault(folder, training))]
    if faults:
        checkpoint.forget(*kept)
    return [f"Damaged: {what}; the training began anew." for what in faults]


def restore_best(scratch: Path, state: State) -> None:
    """Put the best weights in place of the last ones, where they were kept."""
    if chosen := checkpoint.load(scratch / BEST, replace(state, log=TrainingLog())):
        state.log.chosen = chosen


class Validation:
    """Looks every `settings.evaluate_every` steps and at the end: at the loss on `samples`, and at what `score` gives.

    Samples are cut to the sequence length. With `settings.choose` "best" the weights with the highest score are those
    that stay, or those with the lowest loss where there is no score; the earlier where two are equal.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        settings: Training,
        scratch: Path,
        writer: Writer,
        score: Callable[[], float] | None = None,
    ) -> None:
        length = settings.sequence_length
        self.samples = [Sample(sample.ids[:length], sample.labels[:length]) for sample in samples]
        self.settings, self.writer, self.score = settings, writer, score
        self.best = scratch / BEST

    def after(self, step: int, accelerator: Accelerator, loss_module: nn.Module, state: State) -> None:
        """Look if it is time, and keep the weights if they are the best so far. Every process calls this."""
        every = self.settings.evaluate_every
        if every is None or (step % every and step != self.settings.steps):
            return
        log = state.log
        with apart(log), at_rest(accelerator, loss_module):
            if self.samples:
                log.validation.append((step, self._loss(accelerator, loss_module)))
            if self.score:
                log.scores.append((step, broadcast_object_list([self.score()])[0]))
        values = [score for _, score in log.scores] or [-loss for _, loss in log.validation]
        if self.settings.choose == "best" and all(values[-1] > earlier for earlier in values[:-1]):
            with apart(log):
                made_folder(self.best)
                self.writer.save(self.best, replace(state, training=best_of(state.training)), step, resumable=False)

    def _loss(self, accelerator: Accelerator, loss_module: nn.Module) -> float:
        """Mean over the supervised tokens of all samples; every process works through all of them."""
        total = torch.zeros((), device=accelerator.device)
        for start in range(0, len(self.samples), BATCH):
            batch = stack(self.samples[start : start + BATCH])
            inputs = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            total += loss_module(**inputs).detach()
        tokens = sum(label != IGNORED for sample in self.samples for label in sample.labels[1:])
        return float(total) / max(1, tokens)
