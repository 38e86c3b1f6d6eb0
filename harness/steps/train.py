"""The train step: a method on the data of one or several tasks, from the backbone or from what a training made."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from esft_bench.harness.steps.benchmark import UNSCORED, Looks
from esft_bench.harness.steps.profile import ProfileStep, loading
from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.store.keys import Code, modules_of
from esft_bench.harness.store.names import TUNED
from esft_bench.methods.method import Method
from esft_bench.spec.files import made_folder
from esft_bench.spec.suite import Backbone, Profiling
from esft_bench.spec.training import Optimizer, Training

if TYPE_CHECKING:
    from esft_bench.harness.training.told import CellTraining

LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "safetensors")
OPTIMIZERS: dict[Optimizer, tuple[str, ...]] = {
    "adamw": (),
    "adamw-8bit": ("torchao",),
    "adamw-bf16-stochastic": ("torchao",),
}
"""The libraries that each optimizer brings into a training."""


@dataclass(frozen=True)
class Tuned:
    """Values that a search has found, in place of those that a row was given.

    Attributes:
        search: the step that leaves them, a `TUNED` file.
        factor: what the learning rate found is multiplied by.
        within: the hyperparameter that takes the hyperparameters found, where they are those of an ablated method;
            None where only the learning rate is taken.
    """

    search: Step
    factor: float = 1.0
    within: str | None = ""

    def training(self, given: Training, job: Job) -> Training:
        """How to train, with the learning rate found."""
        return given.model_copy(update={"learning_rate": self.factor * self._found(job)["learning_rate"]})

    def hyperparameters(self, given: dict[str, Any], job: Job) -> dict[str, Any]:
        """A method's hyperparameters, with those found."""
        found = self._found(job)["hyperparameters"] if self.within is not None else {}
        return given | ({self.within: given[self.within] | found} if self.within else found)

    def _found(self, job: Job) -> dict[str, Any]:
        return dict(json.loads((job.inputs[TUNED_BY] / TUNED).read_text("utf-8")))


TUNED_BY = "tuned"
"""The role of the search among what a training needs."""


@dataclass(frozen=True, eq=False)
class TrainStep(Step):
    """Train a model.

    Attributes:
        name: the cell it is made for, with its stage where it is not the last.
        method_name, method: the method, with its hyperparameters.
        tasks: the conversations of the tasks that are mixed, in equal shares, by the tasks' names.
        alignment: the conversations mixed in besides.
        general: the general data that the method holds the tasks against.
        training, seed: how; `training` has the row's own steps and learning rate.
        tuned: what is found out before, and taken in place of `training`'s learning rate and the like.
        profiling: how data are profiled; with its `after_training` the trained model is profiled too.
        backbone, loading: the checkpoint it all begins with, and how it is loaded.
        looks: what the model is scored on while it trains.
        source: files that the method brings along.
        first: the training whose result this one goes on from, and whose changes its adapter holds too.
        before: the trainings whose merged checkpoint stands in for the backbone, in order.
    """

    kind: ClassVar[str] = "train"
    name: str
    method_name: str
    method: Method
    tasks: Mapping[str, Content]
    training: Training
    seed: int
    profiling: Profiling
    backbone: Content
    loading: Backbone
    alignment: Content | None = None
    general: tuple[str, Content] | None = None
    looks: Looks = UNSCORED
    source: Content | None = None
    first: "TrainStep | None" = None
    before: tuple["TrainStep", ...] = ()
    tuned: Tuned | None = None

    @property
    def label(self) -> str:
        """The cell."""
        return self.name

    @property
    def begins_with(self) -> tuple["TrainStep", ...]:
        """The trainings whose adapters, merged in order, make the model that this one gets."""
        return (*self.before, self.first) if self.first else self.before

    @property
    def ends_with(self) -> tuple["TrainStep", ...]:
        """The trainings whose adapters, merged in order, make the model that this one leaves."""
        return (*self.before, self)

    @property
    def whole(self) -> tuple["TrainStep", ...]:
        """All trainings that lead to this one, in order, itself last."""
        earlier = self.first or (self.before[-1] if self.before else None)
        return (*(earlier.whole if earlier else ()), self)

    @property
    def how(self) -> Training:
        """`training` as it is for this method."""
        return self.training.model_copy(update={} if self.method.expert_parallel else {"expert_parallel": None})

    def trained(self, training: Training, times: float = 1.0) -> Self:
        """The same trained otherwise; where a stage goes before, it gets its share of the steps.

        `times` is what a learning rate that it has of its own is multiplied by.
        """
        stage, total = self.method.first_stage, training.steps
        if stage is None or self.first is None:
            return replace(self, training=training)
        spent = min(max(1, round(stage.share * total)), total - 1)
        rate = stage.learning_rate * times if stage.learning_rate else training.learning_rate
        first = self.first.trained(training.model_copy(update={"steps": spent, "learning_rate": rate}))
        return replace(self, training=training.model_copy(update={"steps": total - spent}), first=first)

    @property
    def profiles(self) -> dict[str, ProfileStep]:
        """The profiles that the method reads, by role: the tasks' data, and the general data."""
        found: dict[str, ProfileStep] = {}
        if self.method.needs_profile:
            found |= {f"profile {n}": self._profile(*task) for n, task in enumerate(self.tasks.items())}
        if self.general is not None:
            found["general profile"] = self._profile(*self.general)
        return found

    def _profile(self, task: str, data: Content) -> ProfileStep:
        told = (task, data, self.backbone, self.loading, self.profiling, self.begins_with)
        return ProfileStep(*told, self.training.expert_parallel)

    @property
    def needs(self) -> Mapping[str, Step]:
        """The trainings it goes on from, the profiles its method reads, and the search that tunes it."""
        tuned = {TUNED_BY: self.tuned.search} if self.tuned else {}
        return {**{f"training {n}": step for n, step in enumerate(self.begins_with)}, **self.profiles, **tuned}

    @property
    def contents(self) -> Mapping[str, Content]:
        """Backbone, conversations, and what the method brings along."""
        found = {"backbone": self.backbone, **{f"task {n}": data for n, data in enumerate(self.tasks.values())}}
        return {**found, **self.looks.contents} | {
            role: content
            for role, content in (("alignment", self.alignment), ("source", self.source))
            if content is not None
        }

    @property
    def _profiled(self) -> bool:
        after = self.profiling.after_training or self.training.profile_every is not None
        return self.method.needs_profile or after

    @property
    def settings(self) -> dict[str, Any]:
        """The method and how it trains; of a tuned one what the search finds is not told, but read."""
        tuned = {"learning_rate": {"factor": self.tuned.factor, "within": self.tuned.within}} if self.tuned else {}
        return {
            "method": self.method_name,
            "hyperparameters": self.method.model_dump(mode="json"),
            "training": self.how.model_dump(mode="json") | tuned,
            "seed": self.seed,
            "looks": self.looks.settings,
            "profiling": self.profiling.model_dump() if self._profiled else None,
            **loading(self.loading),
        }

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Those of the method's class; all that ask the model have them in their keys."""
        return modules_of(self.method)

    @property
    def code(self) -> Code:
        """The training core, the method's class with all it builds on, and the libraries that compute."""
        looking = ("lm_eval",) if self.looks.benchmarks else ()
        return Code(
            ("esft_bench.harness.training.cell", *self.modules, *self.looks.modules),
            (*LIBRARIES, *OPTIMIZERS[self.training.optimizer], *looking),
        )

    @property
    def resources(self) -> Resources:
        """The model in memory, of one process or several."""
        return Resources("process", gpus=self.how.expert_parallel or 1)

    @property
    def size(self) -> float:
        """The tokens it is trained on; none of a method that trains nothing."""
        given = self.training
        return float(given.steps * given.batch_size * given.sequence_length) if self.method.trains else 0.0

    def run(self, job: Job) -> dict[str, Any]:
        """Train; says what it was tuned to, where it was."""
        from esft_bench.harness.training.cell import train_cell  # here: torch takes seconds to import

        told = self.told(job)
        values = {"learning_rate": told.training.learning_rate, "hyperparameters": told.hyperparameters}
        return train_cell(told, job.progress, job.parallelism.machines) | ({"tuned": values} if self.tuned else {})

    def told(self, job: Job) -> "CellTraining":
        """What the training core is told for a job."""
        from esft_bench.harness.training.told import CellTraining

        given, training = self.method.model_dump(mode="json"), self.how
        return CellTraining(
            backbone=self.backbone.path,
            loading=self.loading,
            trained=[folder for role, folder in job.inputs.items() if role.startswith("training")],
            tasks=[data.path for data in self.tasks.values()],
            alignment=self.alignment.path if self.alignment else None,
            profiles=[folder for role, folder in job.inputs.items() if role.startswith("profile")],
            general=job.inputs.get("general profile"),
            method=self.method_name,
            hyperparameters=self.tuned.hyperparameters(given, job) if self.tuned else given,
            training=self.tuned.training(training, job) if self.tuned else training,
            seed=self.seed,
            profiling=self.profiling if self._profiled else None,
            profile_after=self.profiling.after_training,
            scored=self.looks.told,
            longest=self.looks.longest,
            out=job.out,
            scratch=made_folder(job.scratch),
            micro_batch=job.parallelism.micro_batch,
            processes=training.expert_parallel or job.parallelism.processes,
            trackers=job.parallelism.trackers,
            name=re.sub(r"[^\w.-]+", "-", self.name),
        )
