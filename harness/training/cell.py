"""Training a cell: from a model and data to an adapter, the canary that proves it when it is served, and a log."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from esft_bench.harness.backbone.model import default_device, experts_of
from esft_bench.harness.backbone.prompts import Form
from esft_bench.harness.merging import merged
from esft_bench.harness.meter import metered
from esft_bench.harness.store.names import LOG
from esft_bench.harness.training.data import (
    Sample,
    encode_file,
    hold_out,
    mixed,
    mixture,
    sequences,
)
from esft_bench.harness.training.leaving import export, leave
from esft_bench.harness.training.log import TrainingLog
from esft_bench.harness.training.loop import Options, gathered, train
from esft_bench.harness.training.loss import auxiliary_loss_sentence
from esft_bench.harness.training.optimizer import held_in
from esft_bench.harness.training.packing import check_isolation
from esft_bench.harness.training.precision import held, products
from esft_bench.harness.training.profiling import measuring, profile_model, profile_together
from esft_bench.harness.training.resting import profile_apart_from
from esft_bench.harness.training.spent import Spent, count_shares, without_looks
from esft_bench.harness.training.together.launching import launch
from esft_bench.harness.training.together.machines import ALONE, SHARDED, Crew, Machines
from esft_bench.harness.training.together.room import check_room
from esft_bench.harness.training.together.sharding import give_room, read_onto, sharded, shares_a_model
from esft_bench.harness.training.told import CellTraining
from esft_bench.harness.training.tracked import Tracked
from esft_bench.harness.training.tracking import Measure
from esft_bench.harness.training.untrained import leave_untrained
from esft_bench.harness.training.validation import drop_damaged
from esft_bench.methods.method import Context
from esft_bench.methods.moe.frozen import pack_frozen
from esft_bench.methods.moe.places import read_into
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.unread import Unread
from esft_bench.methods.moe.view import MoeLayer
from esft_bench.methods.tensor_files import tensor_files
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import write_json
from esft_bench.spec.progress import Progress

SCORING = "esft_bench.harness.training.scoring"
"""By its name: it rests on much that a training which is not scored has nothing to do with, so neither has its key."""

AGAIN = "profile-again"
"""The folder in `scratch` of a profile that processes have made of a model that a method has changed."""


def train_cell(cell: CellTraining, progress: Progress, machines: Machines = ALONE) -> dict[str, Any]:
    """Train a cell into its folder: adapter, canary, log and, if asked for, the routing after. Returns what it cost.

    Where its processes are of several `machines`, this one is the first of them.
    """
    method, start = cell.make_method(), cell.start
    if not method.trains:
        return leave_untrained(cell, machines)
    measured: dict[str, Any] = {"damaged": drop_damaged(cell.scratch)}
    history = Spent(cell.scratch, measured["damaged"])
    with merged(cell.backbone, cell.trained, cell.scratch / "merged") as checkpoint, metered(measured):
        crew = Crew(cell.processes, machines)
        shares = _train_together(cell, crew, checkpoint, history.wrapped(progress))
        shared = bool(shares) and (cell.apart or sharded())  # more than an accelerator may hold, or a machine
        on_cpu = shared or cell.training.frozen_experts == "fp8"
        model = start.load(checkpoint, "meta" if cell.apart else "cpu" if on_cpu else None)
        layers = experts_of(model)  # as they are before a method wraps anything around them
        known = shares[0]["known"] if shares else None
        trained = _train(model, cell, history.wrapped(progress), _Course(checkpoint, bool(shares), known))
        measured |= {**trained.counted, "steps": len(trained.log.losses)}
        measured["notes"] = [auxiliary_loss_sentence(model.config), *trained.remarks]
        write_json(cell.out / LOG, trained.log.told)
        Tracked(trained.log.routing, next((layer.top_k for layer in layers.values()), 0)).save(cell.out)
    count_shares(measured, shares)
    history.add_to(measured)
    without_looks(measured, trained.log.looks, cell.processes)
    if cell.trial:
        return measured
    measured["stored_bytes"] = export(method, model, cell)
    if not shared:
        leave(model, start.form(), cell.tasks[0], cell.out, cell.after, layers)
    return measured


def _train_together(cell: CellTraining, crew: Crew, checkpoint: Path, progress: Progress) -> list[dict[str, Any]]:
    """Train in several processes, if asked for; the checkpoint they leave is what `train_cell` goes on from."""
    if cell.processes == 1:
        return []
    if cell.training.frozen_experts == "fp8":
        raise UserError("training.frozen_experts fp8 was not tried with several processes: use one process a cell.")
    trained = _bytes_of_trained(cell, checkpoint) if cell.apart else 0
    check_room(checkpoint, cell.loading.precision, crew.on_each, cell.apart, trained)
    told = {"checkpoint": str(checkpoint), "cell": cell.model_dump(mode="json")}
    return launch(f"{__name__}:{share_of_training.__name__}", told, crew, cell.scratch, progress)


def _bytes_of_trained(cell: CellTraining, checkpoint: Path) -> int:
    """What the parameters that a cell trains take, by their shapes."""
    model = cell.start.load(checkpoint, "meta")
    return sum(parameter.nbytes for parameter in cell.make_method().prepare(model, _context(cell.start.form(), cell)))


def share_of_training(told: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """One process's part in training a cell with others. `told` holds the `cell` and the folder `checkpoint`.

    Returns what it cost.
    """
    cell = CellTraining.model_validate(told["cell"])
    measured: dict[str, Any] = {}
    course = _Course(Path(told["checkpoint"]))
    if cell.apart:
        os.environ[SHARDED] = "1"
    with metered(measured):
        start, checkpoint = cell.start, course.checkpoint
        model = start.shapes(checkpoint) if cell.apart else start.load(checkpoint, read_onto())
        measured["known"] = _train(model, cell, progress, course).known
    return measured


@dataclass(frozen=True)
class _Course:
    """What a training begins with, the folder `checkpoint`, and whether it goes its way or is gathered.

    `gather`: several processes have trained it. `known`: what these have measured of the weights, where none has all.
    """

    checkpoint: Path
    gather: bool = False
    known: Mapping[str, list[float]] | None = None

    def unread(self, cell: CellTraining) -> Unread | None:
        """The weights that the model has not, where each process has experts of its own."""
        if not cell.apart:
            return None
        known = {int(layer): row for layer, row in (self.known or {}).items()}
        return Unread(tensor_files(self.checkpoint), known)


@dataclass(frozen=True)
class _Trained:
    """What a training was: how many parameters on what mixture, its log, what the method has to remark on it.

    `known`: what was measured of weights that no process has all of.
    """

    counted: dict[str, Any]
    log: TrainingLog
    remarks: Sequence[str]
    known: Mapping[int, list[float]]


def _train(model: PreTrainedModel, cell: CellTraining, progress: Progress, course: _Course) -> _Trained:
    """Make a model ready and train it, in place; or gather into it what several processes have trained.

    One whose experts several processes hold has no weights yet; they are read from the checkpoint.
    """
    torch.manual_seed(cell.seed)
    method, form = cell.make_method(), cell.start.form()
    isolated = cell.training.packing and cell.training.packed_attention == "within"
    if isolated and not cell.apart and read_onto() != "meta":  # the process that has weights looks
        check_isolation(model)
    looks, unread = _Looks(model, form, cell), course.unread(cell)
    context = _context(form, cell, course, unread)
    parameters = method.prepare(model, context)
    if cell.training.frozen_experts == "fp8":  # packed layer by layer on their way to the accelerator
        pack_frozen(model, default_device())
        model.to(default_device())  # type: ignore[arg-type]
    count = sum(parameter.numel() for parameter in parameters)
    own, other, held_out = _data(form, cell)
    training = cell.course
    if course.gather:
        give_room(model)
        log = gathered(model, cell.scratch, method.changes(model, context))
        if unread:
            read_into(model, method.also_written(model), unread.files)
    else:
        stream = mixed(own, other, training.alignment_share, cell.seed, training.mix_by)
        batches = sequences(stream, training)
        options = replace(_options(model, cell, looks, held_out, progress), changes=method.changes(model, context))
        if unread:
            check = partial(check_isolation, model) if isolated else None
            options = replace(options, apart=course.checkpoint, at_start=check)
        with held(parameters, held_in(training.optimizer)):
            log = train(model, parameters, batches, training, cell.scratch, options)
    count = max(count, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))
    came_out = mixture(own, other, training, cell.seed)
    shares = {f"alignment_{name}": share for name, share in asdict(came_out).items()} if came_out else {}
    known = unread.known if unread else {}
    return _Trained({"trainable_parameters": count, **shares}, log, method.remarks(context), known)


def _options(
    model: PreTrainedModel, cell: CellTraining, looks: "_Looks", held_out: Sequence[Sample], progress: Progress
) -> Options:
    """How a model that is ready is trained."""
    return Options(
        mixed_precision=products(cell.loading.precision),
        micro_batch=cell.micro_batch,
        learning_rate_factors=cell.make_method().learning_rate_factors(model),
        held_out=held_out,
        score=looks.score(),
        measure=looks.measure(),
        name=cell.method,
        trackers=cell.trackers,
        cell=cell.name,
        progress=progress,
        at_end=looks.leave if shares_a_model() and not cell.trial else None,
    )


def _context(form: Form, cell: CellTraining, course: _Course | None = None, unread: Unread | None = None) -> Context:
    """What the method may look at. Without a course nothing is trained, and a profile stands for the next one."""
    profiles = [Profile.load(folder) for folder in cell.profiles]
    return Context(
        seed=cell.seed,
        profile=profiles[0] if profiles else None,
        further=tuple(profiles[1:]),
        reprofile=_reprofile(form, cell, course) if course else lambda _: profiles[0],
        general=Profile.load(cell.general) if cell.general else None,
        unread=unread,
    )


def _reprofile(form: Form, cell: CellTraining, course: _Course) -> Callable[[PreTrainedModel], Profile] | None:
    """What profiles the task's data again; what processes with experts of their own have seen, they leave in a file."""
    told, place = cell.profiling, cell.scratch / AGAIN
    if told is None:
        return None
    if not cell.apart:
        return partial(profile_together, form=form, task=cell.tasks[0], wanted=told)
    if course.gather:
        return lambda _: Profile.load(place)

    def seen(model: PreTrainedModel, layers: Mapping[int, MoeLayer]) -> Profile:
        return profile_model(model, form, cell.tasks[0], told, layers)

    def again(model: PreTrainedModel) -> Profile:
        found = profile_apart_from(model, course.checkpoint, products(cell.loading.precision), seen)
        if PartialState().is_main_process:
            place.mkdir(exist_ok=True)
            found.save(place)
        return found

    return again


def _data(form: Form, cell: CellTraining) -> tuple[list[list[Sample]], list[Sample], list[Sample]]:
    """The samples of a cell's tasks, of its alignment data, and those held out of the tasks where it is validated."""
    training = cell.training
    told = training.sequence_length, training.truncation
    own = [encode_file(form, task, *told) for task in cell.tasks]
    other = encode_file(form, cell.alignment, *told) if cell.alignment else []
    held: list[Sample] = []
    if training.evaluate_every is not None and training.evaluate_on == "held-out":
        parts = [hold_out(rows, training.validation_items, path) for rows, path in zip(own, cell.tasks, strict=True)]
        own, held = [kept for kept, _ in parts], [sample for _, out in parts for sample in out]
    return own, other, held


class _Looks:
    """What is looked at while a cell trains, made before a method wraps anything around the model."""

    def __init__(self, model: PreTrainedModel, form: Form, cell: CellTraining) -> None:
        self.model, self.form, self.cell = model, form, cell
        self.layers = experts_of(model)

    def score(self) -> Callable[[], float] | None:
        """The score on what the cell names; None where it names nothing."""
        if not self.cell.scored:
            return None
        scoring: Any = import_module(SCORING)
        on = [scoring.Scored.model_validate(each) for each in self.cell.scored]
        scorer: Callable[[], float] = scoring.Scorer(self.model, self.form, on, self.cell.longest)
        return scorer

    def measure(self) -> Measure | None:
        """The routing of the task's data and, where there are such, of general data; None for several tasks."""
        cell = self.cell
        if not cell.training.profile_every or not self.layers or cell.profiling is None or len(cell.tasks) > 1:
            return None
        data = [*cell.tasks, *([cell.alignment] if cell.alignment else [])]
        return measuring(self.model, self.form, data, cell.profiling, self.layers)

    def leave(self) -> None:
        """Write what the trained model leaves besides its weights."""
        leave(self.model, self.form, self.cell.tasks[0], self.cell.out, self.cell.after, self.layers)
