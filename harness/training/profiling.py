"""Profiling: the expert statistics of a model, the backbone or what a training made, on a task's training data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.harness.backbone.model import load_model, load_shapes, load_tokenizer
from esft_bench.harness.backbone.prompts import Form, form_of
from esft_bench.harness.merging import merged
from esft_bench.harness.meter import metered
from esft_bench.harness.store.names import SECOND
from esft_bench.harness.training.data import Sample, encode_file, profiling_batches, profiling_sequences
from esft_bench.harness.training.packing import check_isolation
from esft_bench.harness.training.together.sharding import shares_a_model
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.view import MoeLayer
from esft_bench.spec.suite import Backbone, Profiling


@dataclass(frozen=True)
class Start:
    """The model that a training or a profile begins with.

    `backbone` is its checkpoint's folder, `trained` the artifacts of the trainings that made it from there, in order,
    and `loading` how it is loaded.
    """

    backbone: Path
    loading: Backbone
    trained: Sequence[Path] = ()

    def load(self, checkpoint: Path, device: str | None = None) -> PreTrainedModel:
        """The model of its merged checkpoint, on a device as in `load_model`."""
        return load_model(checkpoint, self.loading.precision, self.loading.trust_remote_code, device)

    def shapes(self, checkpoint: Path) -> PreTrainedModel:
        """The model of its merged checkpoint without weights, as `load_shapes` has it."""
        return load_shapes(checkpoint, self.loading.precision, self.loading.trust_remote_code)

    def form(self) -> Form:
        """How the model is spoken to: a prompt format with its tokenizer."""
        return form_of(self.loading.prompt, load_tokenizer(self.backbone, self.loading.trust_remote_code))


def profile_task(start: Start, task: Path, wanted: Profiling, out: Path, scratch: Path) -> dict[str, Any]:
    """Profile a model's experts on a task's conversations into `out`; returns what it cost.

    A second sample's profile goes into the folder `second`, where the data suffice for one.
    """
    measured: dict[str, Any] = {}
    with merged(start.backbone, start.trained, scratch / "merged") as checkpoint, metered(measured):
        model = start.load(checkpoint)
        if wanted.packed_attention == "within":
            check_isolation(model)
        save_profiles(model, start.form(), task, wanted, out)
    return measured


def save_profiles(
    model: PreTrainedModel,
    form: Form,
    task: Path,
    wanted: Profiling,
    out: Path,
    layers: Mapping[int, MoeLayer] | None = None,
) -> None:
    """Profile a model in memory into `out`, on both samples; of processes that share it the main one writes."""
    for sample, folder in zip(_samples(form, task, wanted), (out, out / SECOND), strict=True):
        if not sample:
            continue
        seen = profile(model, profiling_batches(sample), layers)
        if PartialState().is_main_process:
            folder.mkdir(exist_ok=True)
            seen.save(folder)


def profile_model(
    model: PreTrainedModel,
    form: Form,
    task: Path,
    wanted: Profiling,
    layers: Mapping[int, MoeLayer] | None = None,
) -> Profile:
    """A profile of a model in memory on the sequences that a task is profiled on."""
    first, _ = _samples(form, task, wanted)
    return profile(model, profiling_batches(first), layers)


def profile_together(model: PreTrainedModel, form: Form, task: Path, wanted: Profiling) -> Profile:
    """`profile_model` of a model that is not yet shared out: the process that has its weights tells the others."""
    if not shares_a_model():
        return profile_model(model, form, task, wanted)
    found = profile_model(model, form, task, wanted) if PartialState().is_main_process else None
    seen: Profile = broadcast_object_list([found])[0]
    return seen


def measuring(
    model: PreTrainedModel,
    form: Form,
    data: Sequence[Path],
    wanted: Profiling,
    layers: Mapping[int, MoeLayer],
) -> Callable[[], Tensor | None]:
    """What measures the average routing scores of a model in memory on K files of conversations, [K, L, E].

    `layers` are the model's as they were before a method wrapped anything around them. None comes of routers that do
    not tell the scores of all experts.
    """
    batches = [profiling_batches(_samples(form, path, wanted)[0]) for path in data]

    def measure() -> Tensor | None:
        seen = [profile(model, each, layers) for each in batches]
        sums = [one.router_sums / one.tokens for one in seen if one.router_sums is not None]
        return torch.stack(sums) if len(sums) == len(seen) else None

    return measure


def _samples(form: Form, task: Path, wanted: Profiling) -> tuple[list[Sample], list[Sample]]:
    """The two samples of a task's data that are profiled."""
    samples = encode_file(form, task, wanted.sequence_length, wanted.truncation)
    return profiling_sequences(samples, wanted)
