"""The one training loop, on accelerate: it knows no method by name.

Read top to bottom: set up, loss, step, save. A cell that is killed goes on from its last checkpoint and ends at the
same weights, because batches follow from the seed and the checkpoint holds weights, optimizer state and step.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from harness.data import IGNORED, Sample, stack
from harness.suite import Training
from methods.atomic import write_tensors

CHECKPOINT = "checkpoint.safetensors"
Progress = Callable[[int, int], None]


@dataclass
class TrainingLog:
    """What a training run leaves behind besides weights: loss and gradient norm of each step."""

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)


class AnswerLoss(nn.Module):
    """Sum of the cross-entropy over supervised tokens; the LM head runs on those positions alone.

    A module, so that what accelerate wraps (DDP, FSDP) sees one forward call a step.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`input_ids` and `labels`: (B, T). Returns a scalar."""
        decoder = getattr(self.model, self.model.base_model_prefix)
        hidden = decoder(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, H)
        targets = labels[:, 1:]
        supervised = targets != IGNORED
        logits = self.model.get_output_embeddings()(hidden[:, :-1][supervised])  # (supervised, V)
        return nn.functional.cross_entropy(logits.float(), targets[supervised], reduction="sum")


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
    progress: Progress = lambda step, steps: None,
) -> TrainingLog:
    """Train `parameters` of `model` in place on packed `sequences`, resuming from `scratch` if it holds a checkpoint.

    `settings.batch_size` is the global batch: processes share it, and each walks its share in chunks of `micro_batch`.
    Neither that nor `checkpoint_every` changes what is computed.
    """
    accelerator = Accelerator(mixed_precision=mixed_precision)
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    model.train()
    loss_module, optimizer = accelerator.prepare(AnswerLoss(model), optimizer)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    log = TrainingLog()
    done = _resume(scratch, model, names, optimizer, log, settings.steps)
    sequences = itertools.islice(sequences, done * settings.batch_size, None)

    for step in range(done + 1, settings.steps + 1):
        batch = list(itertools.islice(sequences, settings.batch_size))
        loss = _step(accelerator, loss_module, optimizer, parameters, batch, settings.clip_norm, log, micro_batch)
        log.losses.append(loss)
        if accelerator.is_main_process and step % checkpoint_every == 0 and step < settings.steps:
            _checkpoint(scratch, model, names, optimizer, log, step)
        progress(step, settings.steps)
    model.eval()
    return log


def _step(
    accelerator: Accelerator,
    loss_module: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    batch: Sequence[Sample],
    clip_norm: float,
    log: TrainingLog,
    micro_batch: int | None,
) -> float:
    """One optimizer step on a global batch; returns the mean loss over its supervised tokens."""
    share = batch[accelerator.process_index :: accelerator.num_processes]
    tokens = sum(label != IGNORED for sequence in batch for label in sequence.labels[1:])
    size = micro_batch or len(share)
    total = torch.zeros((), device=accelerator.device)
    for start in range(0, len(share), size):
        inputs = {name: tensor.to(accelerator.device) for name, tensor in stack(share[start : start + size]).items()}
        loss = loss_module(**inputs)
        # DDP averages gradients over processes; dividing by the global count makes the mean exact for any split.
        accelerator.backward(loss * accelerator.num_processes / max(1, tokens))
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    log.gradient_norms.append(float(norm))
    return float(accelerator.reduce(total, "sum")) / max(1, tokens)


def _checkpoint(
    scratch: Path,
    model: PreTrainedModel,
    names: Sequence[str],
    optimizer: torch.optim.Optimizer,
    log: TrainingLog,
    step: int,
) -> None:
    """Write weights, optimizer state and log as one safetensors file, beside and renamed."""
    trained = dict(model.named_parameters())
    tensors = {f"weight/{name}": trained[name] for name in names}
    for name in names:
        for key, value in optimizer.state[trained[name]].items():
            tensors[f"state/{key}/{name}"] = torch.as_tensor(value)
    tensors["losses"] = torch.tensor(log.losses, dtype=torch.float64)
    tensors["gradient_norms"] = torch.tensor(log.gradient_norms, dtype=torch.float64)
    write_tensors(scratch / CHECKPOINT, tensors, {"step": str(step)})


def _resume(
    scratch: Path,
    model: PreTrainedModel,
    names: Sequence[str],
    optimizer: torch.optim.Optimizer,
    log: TrainingLog,
    steps: int,
) -> int:
    """Load the checkpoint in `scratch`, if there is one; returns the steps already done."""
    path = scratch / CHECKPOINT
    if not path.exists():
        return 0
    trained = dict(model.named_parameters())
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        if step >= steps:
            return 0
        keys = set(file.keys())
        with torch.no_grad():
            for name in names:
                trained[name].copy_(file.get_tensor(f"weight/{name}"))
                optimizer.state[trained[name]] = {
                    key: file.get_tensor(f"state/{key}/{name}").to(trained[name].device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"state/{key}/{name}" in keys
                }
        log.losses += file.get_tensor("losses").tolist()
        log.gradient_norms += file.get_tensor("gradient_norms").tolist()
    return step
