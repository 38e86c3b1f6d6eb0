"""A model that is looked at and not trained, and that several processes hold together, as in a training."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from esft_bench.harness.backbone.model import experts_of
from esft_bench.harness.training.looking import at_rest
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.profiling import Start
from esft_bench.harness.training.together.sharding import SHARDED, read_onto, share_out
from esft_bench.methods.moe.experts import use_fast_experts
from esft_bench.methods.moe.view import MoeLayer


@contextmanager
def held_together(
    start: Start, checkpoint: Path, apart: bool
) -> Iterator[tuple[PreTrainedModel, Mapping[int, MoeLayer]]]:
    """The model of a checkpoint, each process with its share and, where `apart`, experts of its own; and its layers.

    Every process calls this, and does the same with the model. It is at rest while the block lasts.
    """
    if apart:
        os.environ[SHARDED] = "1"
    accelerator = Accelerator(mixed_precision="no")
    model = start.shapes(checkpoint) if apart else start.load(checkpoint, read_onto())
    model.requires_grad_(False)
    layers = experts_of(model)  # as they are before others hold some of their experts
    use_fast_experts(model)
    whole = AnswerLoss(model)
    share_out(whole, accelerator.device, "no", torch.float32, checkpoint if apart else None)
    with at_rest(accelerator, whole):
        yield model, layers
