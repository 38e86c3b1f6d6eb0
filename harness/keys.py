"""The keys of the steps before testing, and what is there under them.

A key hashes the contents of what a step reads, its settings and the version of its code, so it can be named only when
the steps it needs are finished; until then the step is waiting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esft_bench.harness.merging import Change
from esft_bench.harness.stages import Profiling, Stage, Step
from esft_bench.harness.store import Artifact, Store, code_version, key_of
from esft_bench.spec.suite import Suite

SECOND, AFTER = "second", "routing"
"""Folders of further profiles: in a profile's artifact that of the second sample, in a training's that of its model."""


@dataclass(frozen=True)
class TaskData:
    """A task's rows as they are used: files named by their contents."""

    training: Path | None
    items: Path | None
    training_digest: str
    items_digest: str
    count: int


@dataclass(frozen=True)
class Keys:
    """Names steps of a suite by what they read and do, and finds what they left in the store."""

    suite: Suite
    store: Store
    data: Mapping[str, TaskData]
    backbone_digest: str

    def kind(self, step: Step) -> str:
        """The kind of artifact a step makes."""
        return "profile" if isinstance(step, Profiling) else "train"

    def key(self, step: Step) -> str | None:
        """A step's key; None while one that it needs is not finished."""
        inputs = self._inputs(step)
        if inputs is None:
            return None
        kind = self.kind(step)
        code = {
            "profile": ("esft_bench.methods.moe", "esft_bench.harness.training.data", "esft_bench.tasks.prompt"),
            "train": (
                "methods",
                "esft_bench.harness.training.loop",
                "esft_bench.harness.training.checkpoint",
                "esft_bench.harness.training.validation",
                "esft_bench.harness.training.data",
                "esft_bench.harness.serving.canary",
                "esft_bench.tasks.prompt",
            ),
        }
        return key_of(kind, self.settings(step), inputs, code_version(*code[kind]))

    def find(self, step: Step) -> Artifact | None:
        """What a finished step made."""
        key = self.key(step)
        return self.store.find(self.kind(step), key) if key else None

    def settings(self, step: Step) -> dict[str, Any]:
        """What a step is told."""
        backbone = self.suite.backbone
        loading = {"precision": backbone.precision, "trust_remote_code": backbone.trust_remote_code}
        profiling = self.suite.profiling.model_dump(exclude={"after_training"})
        if isinstance(step, Profiling):
            return {"profiling": profiling, **loading}
        told = {"learning_rate": step.learning_rate, "steps": step.steps}
        return {
            "method": step.name,
            "hyperparameters": step.method.model_dump(mode="json"),
            "training": self.suite.training.model_copy(update=told).model_dump(mode="json"),
            "seed": step.seed,
            "profiling": profiling if step.method.needs_profile or self.suite.profiling.after_training else None,
            "profile_after": self.suite.profiling.after_training,
            **loading,
        }

    def adapters(self, stage: Stage | None) -> list[Artifact]:
        """The finished trainings whose adapters, merged in order, make the backbone what `stage` ended with."""
        return [made for each in _merged(stage) if (made := self.find(each)) is not None]

    def changes(self, stage: Stage | None) -> list[Change]:
        """Those adapters, with the methods that merge them."""
        return [
            Change(method=each.name, hyperparameters=each.method.model_dump(), adapter=made.folder / "adapter")
            for each, made in zip(_merged(stage), self.adapters(stage), strict=True)
        ]

    def _inputs(self, step: Step) -> dict[str, str] | None:
        """Digests of what a step reads; None while some of it is missing."""
        found = {number: self.find(need) for number, need in enumerate(step.needs)}
        if None in found.values():
            return None
        inputs = {"backbone": self.backbone_digest}
        for number, task in enumerate(step.tasks):
            inputs[f"task {number}"] = self.data[task].training_digest
        if isinstance(step, Stage) and self.suite.alignment:
            inputs["alignment"] = self.data[self.suite.alignment].training_digest
        if isinstance(step, Stage) and step.source:
            inputs["source"] = step.source
        for number, made in found.items():
            assert made is not None
            inputs[f"need {number}"] = made.digest
        return inputs


def _merged(stage: Stage | None) -> list[Stage]:
    """A training with those before it; an adapter holds what its method's first stage changed too."""
    return [*_merged(stage.start), stage] if stage else []
