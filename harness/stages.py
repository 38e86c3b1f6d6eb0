"""What has to be computed before a cell can be tested: trainings, some of them one after another, and profiles.

A step names the steps it needs; nothing here knows keys or folders.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from esft_bench.methods.method import FirstStage, Method
from esft_bench.methods.registry import load_methods
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Suite


@dataclass(frozen=True)
class Stage:
    """A training: a method on the data of one or several tasks, from the backbone or from what a training made.

    Attributes:
        name, method: the method's name, and the method with its hyperparameters.
        tasks: whose data are mixed, in equal shares.
        seed: as the cell's.
        general: the task whose data are the general data; empty where the method asks for none.
        steps, learning_rate: in place of the suite's.
        source: digest of the files that the method brings along; empty where it brings none.
        first: the training whose result this one goes on from, and whose changes its adapter holds too.
        start: the training whose merged checkpoint stands in for the backbone.
    """

    name: str
    method: Method
    tasks: tuple[str, ...]
    seed: int
    steps: int
    learning_rate: float
    general: str = ""
    source: str = ""
    first: "Stage | None" = None
    start: "Stage | None" = None

    @property
    def origin(self) -> "Stage | None":
        """The training that made the model this one begins with; None for the backbone."""
        return self.first or self.start

    @property
    def profiles(self) -> "list[Profiling]":
        """The profiles of each task's data that the method reads."""
        return [Profiling(task, self.origin) for task in self.tasks if self.method.needs_profile]

    @property
    def general_profiles(self) -> "list[Profiling]":
        """The profile of the general data, where the method reads it."""
        return [Profiling(self.general, self.origin)] if self.method.needs_general else []

    @property
    def needs(self) -> "list[Step]":
        """The steps whose output this one reads."""
        return [*([self.origin] if self.origin else []), *self.profiles, *self.general_profiles]

    @property
    def whole(self) -> "list[Stage]":
        """The trainings that make this one, in order, itself last."""
        return [*(self.origin.whole if self.origin else []), self]


@dataclass(frozen=True)
class Profiling:
    """The expert statistics of a model, the backbone or what a training made, on a task's training data."""

    task: str
    model: Stage | None = None

    @property
    def tasks(self) -> tuple[str]:
        """The task whose data are profiled."""
        return (self.task,)

    @property
    def origin(self) -> Stage | None:
        """The training that made the model."""
        return self.model

    @property
    def needs(self) -> "list[Step]":
        """The training that made the model."""
        return [self.model] if self.model else []


Step = Stage | Profiling


def stage_of(
    suite: Suite,
    row: str,
    method: Method,
    tasks: Sequence[str],
    seed: int,
    source: str = "",
    start: Stage | None = None,
) -> Stage:
    """The last training of a cell, with those it goes on from; `source` is the digest of what the method brings."""
    name, _, learning_rate = suite.row(row)
    stage = Stage(
        name,
        method.for_task(tasks[0]),
        tuple(tasks),
        seed,
        suite.steps(row),
        learning_rate,
        general=(suite.alignment or "") if method.needs_general else "",
        source=source,
        start=start,
    )
    return _after_first(stage, method.first_stage) if method.first_stage else stage


def _after_first(stage: Stage, first: FirstStage) -> Stage:
    """A stage with the one before it, between which its steps are shared out."""
    spent = min(max(1, round(first.share * stage.steps)), stage.steps - 1)
    before = Stage(
        first.method,
        make_method(first.method, dict(first.hyperparameters), first.method),
        stage.tasks,
        stage.seed,
        spent,
        first.learning_rate or stage.learning_rate,
        start=stage.start,
    )
    return replace(stage, steps=stage.steps - spent, first=before)


def make_method(name: str, hyperparameters: dict[str, Any], row: str) -> Method:
    """A method with its hyperparameters checked. Raises UserError, naming the suite's row."""
    known = load_methods()
    if name not in known:
        raise UserError(f"methods.{row}: there is no method '{name}'; there are {', '.join(sorted(known))}.")
    try:
        return known[name].model_validate(hyperparameters)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"methods.{row}.{field_name}: {first['msg']}.") from error


def check(suite: Suite, row: str, method: Method) -> None:
    """Raise UserError where a suite lacks what a row's method asks for."""
    if method.needs_general and not suite.alignment:
        raise UserError(
            f"methods.{row}: the method holds a task's data against general data: name a task under `alignment`."
        )
    steps = suite.steps(row)
    if method.first_stage and steps < 2:
        raise UserError(f"methods.{row}: two stages take at least 2 steps, and training.steps is {steps}.")
