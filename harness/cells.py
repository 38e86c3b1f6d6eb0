"""The steps that need the model in memory, each a function from folders to a folder: profile, and train a cell.

They run in child processes of their own (see `workers`), so memory is given back and a crash stays in its cell.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel

from esft_bench.harness.backbone import experts_of, load_model, load_tokenizer
from esft_bench.harness.keys import AFTER, SECOND
from esft_bench.harness.merging import Change, merged
from esft_bench.harness.meter import metered
from esft_bench.harness.serving import canary
from esft_bench.harness.store import bytes_in
from esft_bench.harness.training.data import (
    Sample,
    encode_file,
    hold_out,
    mixed,
    packed,
    profiling_batches,
    profiling_sequences,
)
from esft_bench.harness.training.loop import TrainingLog, train
from esft_bench.harness.training.processes import launch
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.view import MoeLayer
from esft_bench.methods.registry import load_methods
from esft_bench.spec.files import write_json
from esft_bench.spec.suite import Profiling, Training

Progress = Callable[[int, int], None]
CANARY_PROMPTS = 4
CANARY_TOKENS = 48


class Places(BaseModel):
    """Where a step finds its inputs and puts its output; none of it is part of a key."""

    model_config = ConfigDict(frozen=True)
    backbone: Path
    changes: list[Change] = []
    out: Path
    scratch: Path
    tasks: list[Path] = []
    alignment: Path | None = None
    profiles: list[Path] = []
    general: Path | None = None
    threads: int = 1
    micro_batch: int | None = None
    processes: int = 1


def _settle(threads: int) -> None:
    """Make a worker quiet and repeatable."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def profile_step(places: Places, settings: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Profile a model's experts on a task's training data; returns what it cost.

    Writes `profile.*`, and that of a second sample into the folder `second`, where the data suffice for one.
    """
    _settle(places.threads)
    wanted = Profiling.model_validate(settings["profiling"])
    tokenizer = load_tokenizer(places.backbone)
    first, second = _to_profile(tokenizer, places.tasks[0], wanted)
    measured: dict[str, Any] = {}
    with _checkpoint(places) as checkpoint, metered(measured):
        model = load_model(checkpoint, settings["precision"], settings["trust_remote_code"])
        profile(model, profiling_batches(first)).save(places.out)
        if second:
            (places.out / SECOND).mkdir()
            profile(model, profiling_batches(second)).save(places.out / SECOND)
    return measured


def train_step(places: Places, settings: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Train one cell and write its adapter, its canary and its log. Returns what it cost.

    `settings` holds `method`, `hyperparameters`, `training`, `seed`, `precision` and `trust_remote_code`; with
    `profile_after` the trained model is profiled on the task's data into the folder `routing`, by `profiling`.
    """
    _settle(places.threads)
    method = _method(settings)
    tokenizer = load_tokenizer(places.backbone)
    measured: dict[str, Any] = {}
    elsewhere: list[dict[str, Any]] = []
    history = _Measurements(places.scratch)
    with _checkpoint(places) as checkpoint, metered(measured):
        if method.trains and places.processes > 1:
            told = {"checkpoint": str(checkpoint), "places": places.model_dump(mode="json"), "settings": settings}
            function = f"{__name__}:{share_of_training.__name__}"
            elsewhere = launch(function, told, places.processes, places.scratch, history.wrapped(progress))
        model = load_model(checkpoint, settings["precision"], settings["trust_remote_code"])
        layers = experts_of(model)  # as they are before a method wraps anything around them
        measured |= {"trainable_parameters": 0, "steps": 0}
        if method.trains:
            measured["trainable_parameters"], log = _train(model, places, settings, history.wrapped(progress))
            measured["steps"] = len(log.losses)
            write_json(places.out / "log.json", asdict(log))
    for share in elsewhere:
        measured["cpu_seconds"] += share["cpu_seconds"]
    if elsewhere:  # the memory that each needed; this process only gathers what came out
        measured["peak_memory_bytes"] = max(share["peak_memory_bytes"] for share in elsewhere)
        measured["processes"] = len(elsewhere)
    history.add_to(measured)
    adapter = places.out / "adapter"
    adapter.mkdir()
    method.export(model, adapter)
    measured["stored_bytes"] = bytes_in(adapter)
    if not method.trains:
        model = _as_merged(places, settings, adapter)
    canary.measure(model, _canary_prompts(tokenizer, places, settings)).save(places.out / "canary.json")
    if settings["profile_after"] and layers and method.trains:
        (places.out / AFTER).mkdir()
        _profiled(tokenizer, places, settings, model, layers).save(places.out / AFTER)
    return measured


def share_of_training(told: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """One process's part in training a cell with others; the checkpoint they leave is what `train_step` goes on from.

    `told` holds the folder `checkpoint`, and `places` and `settings` as `train_step` has them. Returns what it cost.
    """
    places, settings = Places.model_validate(told["places"]), told["settings"]
    _settle(places.threads)
    measured: dict[str, Any] = {}
    with metered(measured):
        model = load_model(Path(told["checkpoint"]), settings["precision"], settings["trust_remote_code"])
        _train(model, places, settings, progress)
    return measured


def _method(settings: dict[str, Any]) -> Method:
    return load_methods()[settings["method"]].model_validate(settings["hyperparameters"])


def _train(
    model: PreTrainedModel, places: Places, settings: dict[str, Any], progress: Progress
) -> tuple[int, TrainingLog]:
    """Make a model ready and train it, in place; returns the number of trained parameters and the log."""
    torch.manual_seed(settings["seed"])
    method, tokenizer = _method(settings), load_tokenizer(places.backbone)
    parameters = method.prepare(model, _context(tokenizer, places, settings))
    count = sum(parameter.numel() for parameter in parameters)
    training = Training.model_validate(settings["training"])
    sequences, held_out = _data(tokenizer, places, training, settings["seed"])
    log = train(
        model,
        parameters,
        sequences,
        training,
        places.scratch,
        mixed_precision="bf16" if settings["precision"] == "bf16-mixed" else "no",
        micro_batch=places.micro_batch,
        learning_rate_factors=method.learning_rate_factors(model),
        held_out=held_out,
        progress=progress,
    )
    return count, log


def _to_profile(tokenizer: Any, task: Path, wanted: Profiling) -> tuple[list[Sample], list[Sample]]:
    """The two samples of a task's data that are profiled."""
    samples = encode_file(tokenizer, task, wanted.sequence_length, wanted.overlong)
    return profiling_sequences(samples, wanted.sequences, wanted.sequence_length)


def _checkpoint(places: Places) -> AbstractContextManager[Path]:
    """The checkpoint a step begins with, on disk while the block lasts: merging is no part of what a step costs."""
    return merged(places.backbone, places.changes, places.scratch / "merged")


def _as_merged(places: Places, settings: dict[str, Any], adapter: Path) -> PreTrainedModel:
    """What an adapter that was not trained here makes of the model; no training has made it in memory."""
    change = Change(method=settings["method"], hyperparameters=settings["hyperparameters"], adapter=adapter)
    with merged(places.backbone, [*places.changes, change], places.scratch / "merged") as checkpoint:
        return load_model(checkpoint, settings["precision"], settings["trust_remote_code"])


def _context(tokenizer: Any, places: Places, settings: dict[str, Any]) -> Context:
    """What the method may look at."""
    general = Profile.load(places.general) if places.general else None
    profiles = [Profile.load(folder) for folder in places.profiles]
    again = partial(_profiled, tokenizer, places, settings) if settings["profiling"] else None
    return Context(
        seed=settings["seed"],
        profile=profiles[0] if profiles else None,
        further=tuple(profiles[1:]),
        reprofile=again,
        general=general,
    )


def _profiled(
    tokenizer: Any,
    places: Places,
    settings: dict[str, Any],
    model: PreTrainedModel,
    layers: Mapping[int, MoeLayer] | None = None,
) -> Profile:
    """A profile of a model in memory on the sequences that the cell's task is profiled on."""
    first, _ = _to_profile(tokenizer, places.tasks[0], Profiling.model_validate(settings["profiling"]))
    return profile(model, profiling_batches(first), layers)


def _data(tokenizer: Any, places: Places, training: Training, seed: int) -> tuple[Iterator[Sample], list[Sample]]:
    """The endless stream of packed sequences of a cell, and the samples held out of it where it is validated."""
    told = training.sequence_length, training.overlong
    own = [encode_file(tokenizer, task, *told) for task in places.tasks]
    other = encode_file(tokenizer, places.alignment, *told) if places.alignment else []
    held: list[Sample] = []
    if training.evaluate_every is not None:
        parts = [hold_out(rows, training.validation_items, path) for rows, path in zip(own, places.tasks, strict=True)]
        own, held = [kept for kept, _ in parts], [sample for _, out in parts for sample in out]
    return packed(mixed(own, other, training.alignment_share, seed), training.sequence_length), held


def _canary_prompts(tokenizer: Any, places: Places, settings: dict[str, Any]) -> list[list[int]]:
    """A few whole samples of the data the cell was trained on: where its weights speak most clearly."""
    training = Training.model_validate(settings["training"])
    samples = encode_file(tokenizer, places.tasks[0], training.sequence_length, training.overlong)
    return [sample.ids[:CANARY_TOKENS] for sample in samples[:CANARY_PROMPTS]]


class _Measurements:
    """Seconds spent by earlier, killed attempts at a cell, so that a resumed cell reports its whole cost."""

    def __init__(self, scratch: Path) -> None:
        self.path = scratch / "spent.json"
        self.spent = {"seconds": 0.0, "cpu_seconds": 0.0}
        if self.path.exists():
            self.spent = json.loads(self.path.read_text("utf-8"))
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def wrapped(self, progress: Progress) -> Progress:
        """The same progress callback, noting now and then what has been spent."""

        def noting(step: int, steps: int) -> None:
            if step % 50 == 0 and step < steps:
                write_json(self.path, self._total())
            progress(step, steps)

        return noting

    def _total(self) -> dict[str, float]:
        return {
            "seconds": self.spent["seconds"] + time.perf_counter() - self.wall,
            "cpu_seconds": self.spent["cpu_seconds"] + time.process_time() - self.cpu,
        }

    def add_to(self, measured: dict[str, Any]) -> None:
        """Add what earlier attempts spent."""
        for name, value in self.spent.items():
            measured[name] += value
