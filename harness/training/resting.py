"""A model that is looked at and not trained, and that several processes hold together, as in a training."""

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from esft_bench.harness.backbone.model import experts_of
from esft_bench.harness.training.looking import at_rest
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.profiling import Start
from esft_bench.harness.training.together.machines import SHARDED
from esft_bench.harness.training.together.sharding import read_onto, share_out
from esft_bench.methods.moe.experts import use_fast_experts
from esft_bench.methods.moe.profile import Profile
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
    layers = experts_of(model)  # as they are before others hold some of their experts
    with _shared_at_rest(model, accelerator, checkpoint if apart else None):
        yield model, layers


def profile_apart_from(
    model: PreTrainedModel,
    checkpoint: Path,
    mixed_precision: str,
    seen: Callable[[PreTrainedModel, Mapping[int, MoeLayer]], Profile],
) -> Profile:
    """What is `seen` of a model that has shapes alone, by a copy that processes hold together; each gets the same.

    Its values are those of a checkpoint; its layers are told as they are before others hold some of their experts.
    Every process calls this.
    """
    copy = deepcopy(model)
    layers = experts_of(copy)
    with _shared_at_rest(copy, Accelerator(mixed_precision=mixed_precision), checkpoint):
        found = seen(copy, layers)
    del copy, layers
    gc.collect()  # modules that are shared out refer to themselves, and the next model is to have their room
    told: Profile = broadcast_object_list([found])[0]
    return told


@contextmanager
def _shared_at_rest(model: PreTrainedModel, accelerator: Accelerator, checkpoint: Path | None) -> Iterator[None]:
    """Share a model out, to look at it while the block lasts; with a `checkpoint` experts of their own to each."""
    model.requires_grad_(False)
    use_fast_experts(model)
    whole = AnswerLoss(model)
    share_out(whole, accelerator.device, "no", torch.float32, checkpoint)
    with at_rest(accelerator, whole):
        yield
