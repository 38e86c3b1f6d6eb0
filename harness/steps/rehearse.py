"""The rehearsal of a training: all that comes with it but its steps, so that what would fail after hours fails now.

The model is made ready the method's way, by as many processes as are to train it where these share it, and its adapter
and canary are written. What an answer step makes of these is what it will make of a trained model's: merge, serve,
compare with the canary, ask.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from esft_bench.harness.steps.benchmark import UNSCORED
from esft_bench.harness.steps.profile import ProfileStep
from esft_bench.harness.steps.step import Job
from esft_bench.harness.steps.train import TrainStep
from esft_bench.spec.files import made_folder


@dataclass(frozen=True, eq=False)
class RehearsedTraining(TrainStep):
    """A training of no steps, which assumes the profiles that its method reads."""

    kind: ClassVar[str] = "rehearsal"

    @property
    def profiles(self) -> dict[str, ProfileStep]:
        """None: they are assumed."""
        return {}

    @property
    def size(self) -> float:
        """No token."""
        return 0.0

    def run(self, job: Job) -> dict[str, Any]:
        """Make the model ready and export it."""
        from esft_bench.harness.training.cell import train_cell  # here: torch takes seconds to import

        assumed: dict[str, Any] = {"rehearsed": True}
        if self.method.needs_profile or self.general:
            task, general = self._assumed(made_folder(job.scratch))
            assumed |= {"profiles": [task] * len(self.tasks), "general": general if self.general else None}
        return train_cell(self.told(job).model_copy(update=assumed), job.progress, job.parallelism.machines)

    def _assumed(self, folder: Path) -> list[Path]:
        """Folders of an assumed profile of a task, and of one of general data."""
        from esft_bench.harness.backbone.model import empty_model
        from esft_bench.methods.moe.assumed import assumed_profiles
        from esft_bench.methods.moe.view import moe_layers

        layers = moe_layers(empty_model(self.backbone.path, self.loading.trust_remote_code))
        places = [folder / "task", folder / "general"]
        for place, profile in zip(places, assumed_profiles(layers), strict=True):
            place.mkdir(exist_ok=True)
            profile.save(place)
        return places


def rehearsed(step: TrainStep) -> RehearsedTraining:
    """The rehearsal of a training and of those it goes on from; it is the same for all seeds and learning rates."""
    none = {"steps": 1, "learning_rate": 1.0, "choose": "last", "schedule": "constant", "warmup_steps": 0.0}
    none |= {"epochs": None}
    none |= dict.fromkeys(("evaluate_every", "profile_every"))
    told = {field.name: getattr(step, field.name) for field in fields(step)} | {
        "training": step.training.model_copy(update=none),
        "profiling": step.profiling.model_copy(update={"sequences": 1, "after_training": False}),
        "looks": UNSCORED,
        "seed": 0,
        "tuned": None,
        "first": rehearsed(step.first) if step.first else None,
        "before": tuple(rehearsed(each) for each in step.before),
    }
    return RehearsedTraining(**told)
