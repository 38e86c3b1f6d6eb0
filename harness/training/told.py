"""What a training is told: the cell, where everything lies, and how it is carried out."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from esft_bench.harness.training.profiling import Start
from esft_bench.methods.method import Method
from esft_bench.methods.registry import load_methods
from esft_bench.spec.suite import Backbone, Profiling
from esft_bench.spec.trackers import Trackers
from esft_bench.spec.training import Training


class CellTraining(BaseModel):
    """What to train, and where everything lies.

    Attributes:
        backbone, loading, trained: the model to begin with, as in `profiling.Start`.
        tasks, alignment: the files of conversations to train on.
        profiles, general: folders of the profiles that the method reads.
        method, hyperparameters: who trains.
        training, seed: how.
        profiling: how the task is profiled, where the method or `profile_after` wants it.
        profile_after: whether the trained model is profiled on the task's data too.
        scored, longest: what it is scored on while it trains, and how many tokens question and answer may have.
        trial: whether it is trained for its log alone, and nothing else of it is kept.
        rehearsed: whether no step of `training` is taken, and all else is.
        out, scratch: the artifact's folder, and the one that outlives a kill.
        micro_batch, processes, trackers, name: how it is carried out, who is told of it, and what they call it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    backbone: Path
    loading: Backbone
    trained: list[Path] = []
    tasks: list[Path]
    alignment: Path | None = None
    profiles: list[Path] = []
    general: Path | None = None
    method: str
    hyperparameters: dict[str, Any]
    training: Training
    seed: int
    profiling: Profiling | None = None
    profile_after: bool = False
    scored: list[dict[str, Any]] = []
    longest: int = 0
    trial: bool = False
    rehearsed: bool = False
    out: Path
    scratch: Path
    micro_batch: int | None = None
    processes: int = 1
    trackers: Trackers | None = None
    name: str = ""

    @property
    def after(self) -> Profiling | None:
        """How the trained model is profiled, where it is."""
        return self.profiling if self.profile_after else None

    @property
    def course(self) -> Training:
        """`training`, with the steps that are taken."""
        return self.training.model_copy(update={"steps": 0} if self.rehearsed else {})

    @property
    def apart(self) -> bool:
        """Whether each process holds experts of its own, and none the whole model."""
        return self.training.expert_parallel is not None

    @property
    def start(self) -> Start:
        """The model to begin with."""
        return Start(self.backbone, self.loading, self.trained)

    def make_method(self) -> Method:
        """The method with its hyperparameters."""
        return load_methods()[self.method].model_validate(self.hyperparameters)
