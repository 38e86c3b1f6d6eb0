"""Changing what is trained, where a method does, between two steps: optimizer, processes and checkpoints follow."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import nn

from esft_bench.harness.training.data import IGNORED, Sample
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.state import State
from esft_bench.harness.training.together.sharding import shares_a_model
from esft_bench.methods.changes import Changes, Done
from esft_bench.spec.errors import UserError
from esft_bench.spec.training import Training


def check_changes(changes: Changes | None, settings: Training, name: str) -> None:
    """Raise UserError where what is trained changes, and that cannot be followed."""
    if changes and shares_a_model():
        raise UserError(f"{name} changes what it trains, which FSDP2 cannot: use one process a cell.")
    if changes and settings.optimizer == "adamw-8bit":
        raise UserError(
            f"{name} changes what it trains, but training.optimizer adamw-8bit keeps states in blocks, not by expert: "
            "choose adamw or adamw-bf16-stochastic."
        )


def seeing(changes: Changes | None, samples: Sequence[Sample], device: torch.device) -> AbstractContextManager[None]:
    """Around the forward pass of some samples: what changes may count. Samples on which no token counts are left out,

    as are those that only fill up a process's share, and what fills up a row.
    """
    if changes is None:
        return nullcontext()
    longest = max(len(each.ids) for each in samples)
    counted = [len(each.ids) if any(label != IGNORED for label in each.labels) else 0 for each in samples]
    real = torch.arange(longest)[None] < torch.tensor(counted)[:, None]
    return changes.seeing(real.to(device))


def change(step: int, accelerator: Accelerator, loss_module: nn.Module, state: State) -> nn.Module:
    """Ask for changes after a step, and follow them; returns the loss's module, which may be another one."""
    if state.changes is None:
        return loss_module
    losses = [loss for _, loss in state.log.validation]
    moved = state.changes.after(Done(step, losses, partial(accelerator.reduce, reduction="sum")))
    if moved is None:
        return loss_module
    state.retarget(moved)
    return wrapped(accelerator, loss_module, state)


def wrapped(accelerator: Accelerator, loss_module: nn.Module, state: State) -> nn.Module:
    """The loss's module, wrapped anew where what is trained may have changed and processes exchange gradients (DDP)."""
    if state.changes is None or isinstance(loss_module, AnswerLoss):
        return loss_module
    accelerator.free_memory()  # it would keep the one before
    whole: nn.Module = accelerator.prepare_model(AnswerLoss(state.model))  # type: ignore[arg-type]
    return whole
