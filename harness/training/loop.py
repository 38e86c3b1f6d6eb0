"""The one training loop, on accelerate: it knows no method by name.

Read top to bottom: set up, loss, step, save. A cell that is killed goes on from its last checkpoint and ends at the
same weights, because batches follow from the seed and the checkpoint holds weights, optimizer state, step and the
states of the random generators.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from esft_bench.harness.training import checkpoint
from esft_bench.harness.training.changing import change, check_changes, seeing, wrapped
from esft_bench.harness.training.checkpoint import CHECKPOINT
from esft_bench.harness.training.data import IGNORED, Sample, stack
from esft_bench.harness.training.log import TrainingLog
from esft_bench.harness.training.looking import at_rest
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.optimizer import held_in
from esft_bench.harness.training.optimizer import make as make_optimizer
from esft_bench.harness.training.schedule import scheduled
from esft_bench.harness.training.state import State
from esft_bench.harness.training.together.sharding import clip, share_out, shares_a_model
from esft_bench.harness.training.trackers import accelerator_with, tell, told
from esft_bench.harness.training.tracking import Measure, Tracking
from esft_bench.harness.training.validation import BEST, Validation, restore_best
from esft_bench.methods.changes import Changes
from esft_bench.methods.recompute import checkpoint_gradients
from esft_bench.spec.errors import DivergedError, UserError
from esft_bench.spec.progress import Progress
from esft_bench.spec.trackers import Trackers
from esft_bench.spec.training import Training

__all__ = ["CHECKPOINT", "Options", "TrainingLog", "gathered", "train"]


@dataclass(frozen=True)
class Options:
    """How one cell is trained, besides the suite's settings.

    Attributes:
        mixed_precision: `no`, or `bf16` for products in bfloat16.
        micro_batch: how many sequences a process takes at a time; None for its whole share of a batch.
        checkpoint_every: steps from one checkpoint to the next.
        learning_rate_factors: what the learning rate is multiplied by, by parameter name.
        held_out: what `evaluate_every` measures the loss on; `score`: what it measures besides, higher being better.
        measure: what `profile_every` measures.
        name: what is trained, for what is said of a training that diverges.
        trackers: who is told of the steps, and the `cell` that they call the training.
        progress: called with the steps done and of how many.
        at_start, at_end: called by every process before the first step, and when all is trained, while the model is at
            rest.
        changes: what changes which parameters are trained, where the method does.
        apart: the checkpoint that each process reads experts of its own from, where a model is shared out that way.
    """

    mixed_precision: str = "no"
    micro_batch: int | None = None
    checkpoint_every: int = 50
    learning_rate_factors: Mapping[str, float] = field(default_factory=dict)
    held_out: Sequence[Sample] = ()
    score: Callable[[], float] | None = None
    measure: Measure | None = None
    name: str = ""
    trackers: Trackers | None = None
    cell: str = ""
    progress: Progress = lambda step, steps: None
    at_start: Callable[[], None] | None = None
    at_end: Callable[[], None] | None = None
    changes: Changes | None = None
    apart: Path | None = None


def train(
    model: PreTrainedModel,
    parameters: Sequence[nn.Parameter],
    sequences: Iterator[Sample],
    settings: Training,
    scratch: Path,
    options: Options = Options(),
) -> TrainingLog:
    """Train `parameters` of `model` in place on packed `sequences`, resuming from `scratch` if it holds a checkpoint.

    `settings.batch_size` is the global batch: processes share it, and each walks its share in chunks of `micro_batch`.
    Neither that nor `checkpoint_every` changes what is computed, but for the noise that a model draws (dropout, router
    jitter), which chunks share out otherwise. Where several train, a last checkpoint is what `gathered` takes.

    Raises DivergedError where the loss or a gradient is no finite number; no checkpoint of such a training is left.
    """
    accelerator = accelerator_with(options.trackers, options.cell, mixed_precision=options.mixed_precision)
    model.train()
    loss_module, optimizer, moves = _prepared(accelerator, model, parameters, settings, options)
    state = State(model, optimizer, TrainingLog(), scratch.name, options.changes)
    writer, tracking = checkpoint.Writer(scratch, scratch / BEST), Tracking(options.measure, settings)
    validation = Validation(options.held_out, settings, scratch, writer, options.score)
    done = checkpoint.load(scratch, state)
    loss_module, rates = wrapped(accelerator, loss_module, state), scheduled(moves, settings, done)
    core = _Core(accelerator, loss_module, optimizer, rates, settings, options)
    sequences = itertools.islice(sequences, done * settings.batch_size, None)
    if done == 0:
        tracking.after(0, accelerator, _at_rest(accelerator, loss_module, options.at_start), state)
    with writer, told(accelerator, options.trackers if done < settings.steps else None, options.cell, settings):
        for step in range(done + 1, settings.steps + 1):
            loss, norm = core.gradients(list(itertools.islice(sequences, settings.batch_size)))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                writer.forget(scratch, validation.best)
                raise DivergedError(_diverged(step, loss, norm, settings, options))
            core.update()
            state.log.add(loss, norm)
            tracking.after(step, accelerator, core.loss_module, state)
            validation.after(step, accelerator, core.loss_module, state)
            if step < settings.steps:
                core.loss_module = change(step, accelerator, core.loss_module, state)
                if step % options.checkpoint_every == 0:
                    writer.save(scratch, state, step)
            tell(accelerator, step, state.log)
            options.progress(step, settings.steps)
        if accelerator.num_processes > 1:
            writer.save(scratch, state, settings.steps, resumable=False)
    accelerator.wait_for_everyone()
    restore_best(scratch, state)
    _at_rest(accelerator, core.loss_module, options.at_end).eval()
    return state.log


def _at_rest(accelerator: Accelerator, loss_module: nn.Module, do: Callable[[], None] | None) -> nn.Module:
    """Do what is to be done with a model at rest, if anything; returns it."""
    if do:
        with at_rest(accelerator, loss_module):
            do()
    return loss_module


def gathered(model: PreTrainedModel, scratch: Path, changes: Changes | None = None) -> TrainingLog:
    """Put what several processes have trained into a model made ready, wherever it is; returns their log."""
    state = State(model, None, TrainingLog(), scratch.name, changes)
    checkpoint.load(scratch, state)
    restore_best(scratch, state)
    model.eval()
    return state.log


def _optimizer(
    model: nn.Module, parameters: Sequence[nn.Parameter], settings: Training, options: Options
) -> torch.optim.Optimizer:
    factors = {id(each): options.learning_rate_factors.get(name, 1.0) for name, each in model.named_parameters()}
    return make_optimizer(settings, parameters, factors)


def _prepared(
    accelerator: Accelerator,
    model: PreTrainedModel,
    parameters: Sequence[nn.Parameter],
    settings: Training,
    options: Options,
) -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
    """The loss and the optimizer, ready for one process or several, and the optimizer as it is without accelerate.

    Raises UserError for what cannot be sharded, or cannot change.
    """
    check_changes(options.changes, settings, options.name)
    if settings.gradient_checkpointing:
        checkpoint_gradients(model)
    whole = AnswerLoss(model)
    shared = shares_a_model()
    if shared and settings.optimizer == "adamw-8bit":
        raise UserError("training.optimizer adamw-8bit was not tried with FSDP2: choose adamw, or one process a cell.")
    if shared:
        share_out(whole, accelerator.device, options.mixed_precision, held_in(settings.optimizer), options.apart)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]  # now the shards
    moves = _optimizer(model, parameters, settings, options)
    if shared:
        return whole, accelerator.prepare_optimizer(moves), moves
    loss_module, optimizer = accelerator.prepare(whole, moves)
    return loss_module, optimizer, moves


@dataclass
class _Core:
    """What computes a step, as accelerate has prepared it."""

    accelerator: Accelerator
    loss_module: nn.Module
    optimizer: torch.optim.Optimizer
    rates: torch.optim.lr_scheduler.LRScheduler
    settings: Training
    options: Options

    def gradients(self, batch: Sequence[Sample]) -> tuple[float, float]:
        """Gradients of a global batch, clipped: (mean loss over its supervised tokens, norm before clipping)."""
        accelerator = self.accelerator
        share = _share(batch, accelerator.process_index, accelerator.num_processes)
        tokens = max(1, sum(label != IGNORED for sequence in batch for label in sequence.labels[1:]))
        size = self.options.micro_batch or len(share)
        total = torch.zeros((), device=accelerator.device)
        for start in range(0, len(share), size):
            chunk = share[start : start + size]
            inputs = {name: each.to(accelerator.device) for name, each in stack(chunk).items()}
            # DDP sends gradients once, after the last chunk; FSDP2 after each, or it would hold them unsharded.
            wait = start + size < len(share) and not shares_a_model()
            with accelerator.no_sync(self.loss_module) if wait else nullcontext():
                with seeing(self.options.changes, chunk, accelerator.device):
                    loss = self.loss_module(**inputs)
                # Gradients are averaged over processes; dividing by the global count makes the mean exact for any
                # split.
                accelerator.backward(loss * accelerator.num_processes / tokens)
            total += loss.detach()
        trained = [parameter for parameter in self.loss_module.parameters() if parameter.requires_grad]
        most = self.settings.max_grad_norm
        if self.options.apart:
            norm = clip(trained, most)
        else:
            norm = float(checkpoint.whole(accelerator.clip_grad_norm_(trained, most)))
        return float(accelerator.reduce(total, "sum")) / tokens, norm

    def update(self) -> None:
        """Move the weights by the gradients, drop these, and set the next step's learning rate."""
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad()


def _share(batch: Sequence[Sample], process: int, processes: int) -> list[Sample]:
    """Every n-th sequence of a batch. All shares are equally long, since processes wait for each other at every chunk:

    a process that would have one less gets one on which no token counts.
    """
    idle = replace(batch[0], labels=[IGNORED] * len(batch[0].ids))
    return [*batch, *[idle] * (-len(batch) % processes)][process::processes]


def _diverged(step: int, loss: float, norm: float, settings: Training, options: Options) -> str:
    """The sentence on a training that cannot go on."""
    where = f"{options.name}: " if options.name else ""
    what = f"the gradient norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
    return f"{where}training diverged: {what} in step {step} at learning rate {settings.learning_rate:g}; lower that."
