"""The one training loop, on accelerate: it knows no method by name.

Read top to bottom: set up, loss, step, save. A cell that is killed goes on from its last checkpoint and ends at the
same weights, because batches follow from the seed and the checkpoint holds weights, optimizer state and step.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel

from esft_bench.harness.training import checkpoint
from esft_bench.harness.training.checkpoint import CHECKPOINT, TrainingLog
from esft_bench.harness.training.data import IGNORED, Sample, stack
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.validation import Validation
from esft_bench.methods.recompute import checkpoint_gradients
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Training

__all__ = ["CHECKPOINT", "TrainingLog", "train"]

Progress = Callable[[int, int], None]


def train(
    model: PreTrainedModel,
    parameters: Sequence[nn.Parameter],
    sequences: Iterator[Sample],
    settings: Training,
    scratch: Path,
    *,
    mixed_precision: str = "no",
    micro_batch: int | None = None,
    checkpoint_every: int = 50,
    learning_rate_factors: Mapping[str, float] = MappingProxyType({}),
    held_out: Sequence[Sample] = (),
    progress: Progress = lambda step, steps: None,
) -> TrainingLog:
    """Train `parameters` of `model` in place on packed `sequences`, resuming from `scratch` if it holds a checkpoint.

    `settings.batch_size` is the global batch: processes share it, and each walks its share in chunks of `micro_batch`.
    Neither that nor `checkpoint_every` changes what is computed. `learning_rate_factors` are by parameter name,
    `held_out` is what `settings.evaluate_every` measures the loss on. Where several processes train, a last checkpoint
    in `scratch` holds the weights that came out: a process of its own that calls this again gets them at once.
    """
    accelerator = _accelerator(mixed_precision, parameters)
    optimizer = torch.optim.AdamW(
        _groups(model, parameters, settings.learning_rate, learning_rate_factors),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    model.train()
    if settings.gradient_checkpointing:
        checkpoint_gradients(model)
    loss_module, optimizer = accelerator.prepare(AnswerLoss(model), optimizer)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    log = TrainingLog()
    done = checkpoint.load(scratch, model, names, optimizer, log)
    sequences = itertools.islice(sequences, done * settings.batch_size, None)
    validation = Validation(held_out, settings, scratch)

    for step in range(done + 1, settings.steps + 1):
        batch = list(itertools.islice(sequences, settings.batch_size))
        log.losses.append(_step(accelerator, loss_module, optimizer, batch, settings.clip_norm, log, micro_batch))
        validation.after(step, accelerator, loss_module, model, names, optimizer, log)
        last = step == settings.steps
        if (step % checkpoint_every == 0 and not last) or (last and accelerator.num_processes > 1):
            main = accelerator.is_main_process
            checkpoint.save(scratch, model, names, optimizer, log, step, write=main, with_state=not last)
        progress(step, settings.steps)
    accelerator.wait_for_everyone()
    validation.restore(model, names, optimizer, log)
    model.eval()
    return log


def _groups(
    model: nn.Module, parameters: Sequence[nn.Parameter], learning_rate: float, factors: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The parameters as the optimizer takes them: a group for each learning rate."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factors.get(names[id(parameter)], 1.0), []).append(parameter)
    return [{"params": group, "lr": factor * learning_rate} for factor, group in groups.items()]


def _accelerator(mixed_precision: str, parameters: Sequence[nn.Parameter]) -> Accelerator:
    """Processes, device and precision. Raises UserError for what FSDP2 cannot shard."""
    accelerator = Accelerator(mixed_precision=mixed_precision)
    if accelerator.is_fsdp2:
        kinds = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
        if len(kinds) > 1 and mixed_precision == "no":
            raise UserError(
                f"FSDP2 cannot train tensors of both {' and '.join(kinds)}: set backbone.precision to bf16-mixed."
            )
        if mixed_precision == "bf16":
            # accelerate's own would reduce gradients, and return the loss, a sum over all tokens, in bf16.
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    return accelerator


def _step(
    accelerator: Accelerator,
    loss_module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Sample],
    clip_norm: float,
    log: TrainingLog,
    micro_batch: int | None,
) -> float:
    """One optimizer step on a global batch; returns the mean loss over its supervised tokens."""
    share = _share(batch, accelerator.process_index, accelerator.num_processes)
    tokens = sum(label != IGNORED for sequence in batch for label in sequence.labels[1:])
    size = micro_batch or len(share)
    total = torch.zeros((), device=accelerator.device)
    for start in range(0, len(share), size):
        inputs = {name: tensor.to(accelerator.device) for name, tensor in stack(share[start : start + size]).items()}
        # DDP sends gradients once, after the last chunk; FSDP2 after each, or it would hold them unsharded.
        wait = start + size < len(share) and not accelerator.is_fsdp2
        with accelerator.no_sync(loss_module) if wait else nullcontext():
            loss = loss_module(**inputs)
            # Gradients are averaged over processes; dividing by the global count makes the mean exact for any split.
            accelerator.backward(loss * accelerator.num_processes / max(1, tokens))
        total += loss.detach()
    # The loss module's own parameters: under FSDP2 others than were handed in, the sharded ones.
    trained = [parameter for parameter in loss_module.parameters() if parameter.requires_grad]
    norm = accelerator.clip_grad_norm_(trained, clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    log.gradient_norms.append(float(checkpoint.whole(norm)))
    return float(accelerator.reduce(total, "sum")) / max(1, tokens)


def _share(batch: Sequence[Sample], process: int, processes: int) -> list[Sample]:
    """Every n-th sequence of a batch. All shares are equally long, since processes wait for each other at every chunk:

    a process that would have one less gets one on which no token counts.
    """
    idle = Sample(batch[0].ids, [IGNORED] * len(batch[0].ids))
    return [*batch, *[idle] * (-len(batch) % processes)][process::processes]
