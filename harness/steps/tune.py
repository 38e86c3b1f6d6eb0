"""The tune step: which values a row is trained with, found by trials on rows held out of the training data.

It asks for the trials, rung by rung, as the losses of earlier ones come in; a trial is a step like any other, so trials
are stored, shared, resumed and spread. A trial begins at step 0 on every rung: what it would go on from, the weights
and the optimizer's state of every trial, is three times the model for full fine-tuning.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import inf, isfinite
from pathlib import Path
from typing import Any, ClassVar

from esft_bench.harness.steps.search import Losses, Search, Trial
from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.store.artifacts import Artifact
from esft_bench.harness.store.draft import draft_json
from esft_bench.harness.store.keys import Code
from esft_bench.harness.store.names import LOG, TUNED
from esft_bench.spec.errors import DivergedError, UserError

CODE = Code((__name__,), ("optuna",))


@dataclass(frozen=True, eq=False)
class TrialStep(TrainStep):
    """A training for its log alone, with the loss on held-out rows. One that diverges has ended well: it says so."""

    kind: ClassVar[str] = "trial"

    def run(self, job: Job) -> dict[str, Any]:
        """Train."""
        from esft_bench.harness.training.cell import train_cell  # here: torch takes seconds to import

        try:
            told = self.told(job).model_copy(update={"trial": True})
            measured = train_cell(told, job.progress, job.parallelism.machines)
        except DivergedError as error:
            draft_json(job.out / LOG, {"diverged": str(error)})
            return {}
        measured.pop("notes", None)  # the report's are those of the trainings it compares
        return measured


def held_out_loss(trial: Path) -> float:
    """The loss on held-out rows with the weights that a trial ended with; infinite where it diverged."""
    log = json.loads((trial / LOG).read_text("utf-8"))
    by_step = dict(log.get("validation", []))
    loss = by_step[log["chosen"] or max(by_step)] if by_step else inf
    return loss if isfinite(loss) else inf


@dataclass(frozen=True, eq=False)
class TuneStep(Step):
    """Find the values that a row is trained with.

    Attributes:
        name: the row, and the task where values are found for each.
        search: what is searched.
        steps: those of the row's own training, and of a trial on the last rung.
        tried: what a trial is before values are put into it, by task.
    """

    kind: ClassVar[str] = "tune"
    name: str
    search: Search
    steps: int
    tried: Mapping[str, TrialStep]

    @property
    def label(self) -> str:
        """Row and task."""
        return f"tuning · {self.name}"

    @property
    def needs(self) -> Mapping[str, Step]:
        """The trials that begin before anything is known."""
        return self._steps({})

    def asks(self, inputs: Mapping[str, Artifact]) -> Mapping[str, Step]:
        """The trials that follow from those that are over."""
        return self._steps(self.losses({role: artifact.folder for role, artifact in inputs.items()}))

    @property
    def foreseen(self) -> tuple[str, ...]:
        """Trials: so many on every rung, on each task."""
        return (TrialStep.kind,) * (sum(self.search.tune.counts) * len(self.tried))

    @property
    def contents(self) -> Mapping[str, Content]:
        """None but the trials."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """What is searched, and how."""
        return {
            "tune": self.search.tune.model_dump(mode="json"),
            "learning_rate": self.search.own,
            "space": self.search.space.model_dump(mode="json"),
            "steps": self.steps,
            "tasks": list(self.tried),
        }

    @property
    def code(self) -> Code:
        """The search."""
        return CODE

    @property
    def resources(self) -> Resources:
        """Nothing: the trials do the work."""
        return Resources("nothing", gpus=0)

    def losses(self, folders: Mapping[str, Path], task: str = "") -> Losses:
        """The losses on held-out rows, given the folders of the trials that are over, by role.

        Where several tasks are tuned together they are means over the tasks, or of one `task`.
        """
        tasks = [task] if task else list(self.tried)
        found: dict[tuple[int, int], float] = {}
        tune = self.search.tune
        for number, rung in product(range(tune.trials + tune.beside), range(tune.rungs)):
            roles = [_role(number, rung, each) for each in tasks]
            if all(role in folders for role in roles):
                found[number, rung] = sum(held_out_loss(folders[role]) for role in roles) / len(roles)
        return found

    def _steps(self, losses: Losses) -> dict[str, Step]:
        """The trials there are to be so far, by role."""
        return {
            _role(trial.number, trial.rung, task): self._step(trial, step)
            for trial in self.search.trials(losses)
            for task, step in self.tried.items()
        }

    def _step(self, trial: Trial, tried: TrialStep) -> TrialStep:
        """A trial as a step."""
        steps = self.search.tune.steps(trial.rung, self.steps)
        told = {"learning_rate": trial.learning_rate, "steps": steps}
        measured = {"evaluate_every": tried.training.evaluate_every or steps}
        method = type(tried.method).model_validate(tried.method.model_dump(mode="json") | dict(trial.hyperparameters))
        name = f"{tried.name} · trial at {_described(trial)}"
        return replace(tried, name=name, method=method).trained(tried.training.model_copy(update=told | measured))

    def run(self, job: Job) -> dict[str, Any]:
        """Choose."""
        losses = self.losses(job.inputs)
        chosen = self.search.chosen(losses)
        if chosen is None:
            lowest = min(trial.learning_rate for trial in self.search.trials(losses))
            raise UserError(f"every trial diverged, down to learning rate {lowest:g}: give its row a lower one.")
        values = {"learning_rate": chosen.learning_rate, "hyperparameters": dict(chosen.hyperparameters)}
        draft_json(job.out / TUNED, values)
        said = f"{self.name}: {_described(chosen)} is the best of {len({number for number, _ in losses})} trials"
        return {"said": [said]}


def _described(trial: Trial) -> str:
    """What a trial tries."""
    others = (f", {name} {value}" for name, value in trial.hyperparameters.items())
    return f"learning rate {trial.learning_rate:g}{''.join(others)}"


def _role(number: int, rung: int, task: str) -> str:
    return f"trial {number}, rung {rung}, {task}"
