"""Adapters of others that may be meant in more than one way: the loss on rows of the task says which reading fits."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from esft_bench.harness.merging import Merger, merged
from esft_bench.harness.store.names import ADAPTER
from esft_bench.harness.training.data import IGNORED, Sample, stack
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.profiling import Start
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Method

ROWS = 8
"""So many rows of the task are looked at."""


def check_reading(
    method: Method, model: PreTrainedModel, start: Start, out: Path, samples: Sequence[Sample]
) -> list[str]:
    """Compare a merged adapter with what other readings make of it; returns what the report must say.

    `model` is the merged one, `out` the artifact with the adapter. Raises MethodError where another reading fits the
    rows better.
    """
    readings = method.other_readings
    if not readings:
        return []
    said, own = [], _loss(model, samples)
    for other in readings:
        theirs = _loss(_read(other, start, out), samples)
        named = ", ".join(f"{name}: {value}" for name, value in other if value != getattr(method, name))
        losses = f"{theirs:.2f} against {own:.2f} on {len(samples)} rows of the task"
        if theirs < own:
            raise MethodError(f"the adapter read with `{named}` has the lower loss, {losses}: set that in its row")
        said.append(f"Read with `{named}` the adapter has the higher loss, {losses}.")
    return said


def _read(method: Method, start: Start, out: Path) -> PreTrainedModel:
    """The model that a reading of the adapter in `out` makes."""
    place = out / "other"
    place.mkdir()
    try:
        Merger(method=method.name, hyperparameters=method.model_dump(mode="json")).save(place)
        (place / ADAPTER).symlink_to((out / ADAPTER).resolve(), target_is_directory=True)
        with merged(start.backbone, [*start.trained, place], place / "merged") as checkpoint:
            return start.load(checkpoint)
    finally:
        shutil.rmtree(place)


@torch.no_grad()
def _loss(model: PreTrainedModel, samples: Sequence[Sample]) -> float:
    """Mean cross-entropy over the answers' tokens, in nats."""
    loss = AnswerLoss(model)
    batches = [{name: tensor.to(model.device) for name, tensor in stack([sample]).items()} for sample in samples]
    total = sum(float(loss(**batch)) for batch in batches)
    return total / max(1, sum(label != IGNORED for sample in samples for label in sample.labels[1:]))
