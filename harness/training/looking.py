"""Looking at a model in the middle of its training, so that the training does not notice."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule

from esft_bench.harness.training.data import IGNORED
from esft_bench.harness.training.log import TrainingLog


@contextmanager
def apart(log: TrainingLog) -> Iterator[None]:
    """Count the time of the block as that of looks."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    log.looks[0] += time.perf_counter() - wall
    log.looks[1] += time.process_time() - cpu


@contextmanager
def at_rest(accelerator: Accelerator, loss_module: nn.Module) -> Iterator[None]:
    """While the block runs, the model is in evaluation mode, in the precision it trains in, and keeps no gradients.

    Mode and random generators are afterwards what they were. Where processes share its parameters (FSDP2), those of
    no layer are whole for the time, so that the model can be called by itself; every process must do the same with it.
    """
    devices = [accelerator.device.index or 0] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), accelerator.autocast():
        loss_module.eval()
        try:
            if isinstance(loss_module, FSDPModule):
                _make_known(accelerator, loss_module)
                loss_module.unshard()
            yield
        finally:
            if isinstance(loss_module, FSDPModule):
                loss_module.reshard()
            loss_module.train()


def _make_known(accelerator: Accelerator, loss_module: nn.Module) -> None:
    """Let FSDP2 see, by a call of the whole, what the whole is: a part that is called first would be taken for it."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=accelerator.device)
    loss_module(input_ids=ids, labels=torch.full_like(ids, IGNORED))
