"""Trainings of a tiny model in which what is trained changes, by one process or by several.

`part` is what each process does. What came out lies in FOLDER/NAME/whole and FOLDER/NAME/resumed, as the training
loop's last checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import PartialState
from torch import nn
from transformers import PreTrainedModel

from esft_bench.harness.training.loop import Options, TrainingLog, train
from esft_bench.harness.training.together.machines import SHARDED
from esft_bench.methods.changes import Changes
from esft_bench.methods.esft_dynamic import EsftDynamic
from esft_bench.methods.esft_gradual import EsftGradual
from esft_bench.methods.method import Method
from esft_bench.methods.moe.changing import left_experts
from esft_bench.methods.moe.experts import selected_experts
from esft_bench.methods.moe.view import moe_layers
from esft_bench.spec.errors import UserError
from esft_bench.spec.training import Training
from tests.conftest import build
from tests.harness.ranks import StoppedError, sequences, stop
from tests.methods.helpers import seen_by

SETTINGS = Training(steps=6, batch_size=4, sequence_length=12, learning_rate=1e-2, max_grad_norm=0.05)
"""A norm that every gradient exceeds."""
NOISE = 0.02 * SETTINGS.learning_rate
"""How far sums in another order may move a weight: AdamW's first steps are as long for the faintest gradient."""
CHANGING: dict[str, Method] = {
    "dynamic": EsftDynamic(p=0.3, every=1, decay=0),
    "now-and-then": EsftDynamic(p=0.3, every=2, decay=0.3),
    "gradual": EsftGradual(p=0.8, every=1),
}


def prepared(
    method: Method, architecture: str = "olmoe"
) -> tuple[PreTrainedModel, Changes | None, Sequence[nn.Parameter]]:
    """A model made ready, what changes what is trained in it, and what is trained first."""
    model = build(architecture)
    context = seen_by(model)
    parameters = method.prepare(model, context)
    return model, method.changes(model, context), parameters


def run(
    method: Method, scratch: Path, settings: Training = SETTINGS, architecture: str = "olmoe", **options: Any
) -> tuple[PreTrainedModel, TrainingLog]:
    model, changes, parameters = prepared(method, architecture)
    scratch.mkdir(parents=True, exist_ok=True)
    asked = Options(changes=changes, **options)
    return model, train(model, parameters, sequences(), settings, scratch, asked)


def experts(model: PreTrainedModel) -> list[tuple[list[int], list[int]]]:
    """Those that are trained and those that were, by layer."""
    return [(selected_experts(layer), left_experts(layer)) for layer in moe_layers(model).values()]


def train_all(folder: Path) -> None:
    """Train every method, undisturbed and interrupted, with batches of three, which two processes cannot halve."""
    settings = SETTINGS.model_copy(update={"batch_size": 3})
    for name, method in CHANGING.items():
        run(method, folder / name / "whole", settings, checkpoint_every=2)
        with suppress(StoppedError):
            run(method, folder / name / "resumed", settings, checkpoint_every=2, progress=stop)
        run(method, folder / name / "resumed", settings, micro_batch=1)


def part(folder: Path) -> None:
    """One process's part."""
    train_all(folder)
    os.environ[SHARDED] = "1"
    with pytest.raises(UserError, match="FSDP2 cannot"):
        run(CHANGING["dynamic"], folder / "shared")
    assert PartialState().num_processes == 2
