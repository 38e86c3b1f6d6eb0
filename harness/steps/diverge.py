"""The steps that measure how far a model has moved from the base model, on answers that the base model draws once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.store.draft import draft_jsonl
from esft_bench.harness.store.keys import Code
from esft_bench.harness.store.names import ITEMS, SAMPLES
from esft_bench.spec.files import read_jsonl

HOW = ("esft_bench.harness.serving.divergence", "esft_bench.harness.serving.lm", "esft_bench.harness.merging")


@dataclass(frozen=True, eq=False)
class _Asked(Step):
    """A step that asks a served model. `name` is the cell's, `training` what made the model."""

    name: str
    training: TrainStep
    engine: EngineSettings

    @property
    def needs(self) -> Mapping[str, Step]:
        """The trainings whose adapters make the model."""
        return {f"training {number}": step for number, step in enumerate(self.training.ends_with)}

    @property
    def settings(self) -> dict[str, Any]:
        """The engine."""
        told = self.training.loading.model_dump(include={"precision", "prompt"})
        return {"engine": self.engine.name, "max_length": self.engine.max_length, **told}

    @property
    def code(self) -> Code:
        """How the model is merged and asked, and the libraries that do it."""
        merging = [name for step in self.training.ends_with for name in step.modules]
        libraries = ("lm_eval", self.engine.name.split()[0], "transformers", "tokenizers", "torch")
        return Code((*HOW, *dict.fromkeys(merging)), libraries)

    @property
    def resources(self) -> Resources:
        """An engine, at best one that serves this model already."""
        return Resources("engine", self.engine, state=self.training.identity, gpus=self.engine.gpus)

    def _serve(self, job: Job) -> dict[str, Any]:
        """Have the model served; returns how that went."""
        trained = [folder for role, folder in job.inputs.items() if role.startswith("training")]
        loaded = job.borrowed.serve(self.training.identity, self.training.backbone.path, trained, job.scratch)
        return {"loaded": loaded.how, "load_seconds": loaded.seconds, "canary": loaded.difference}


@dataclass(frozen=True, eq=False)
class SampleStep(_Asked):
    """Have the base model answer prompts once, by chance. `items` are the prompts."""

    kind: ClassVar[str] = "samples"
    items: Content

    @property
    def label(self) -> str:
        """Whose answers."""
        return f"{self.name}: its own answers"

    @property
    def contents(self) -> Mapping[str, Content]:
        """Backbone and prompts."""
        return {"backbone": self.training.backbone, "items": self.items}

    def run(self, job: Job) -> dict[str, Any]:
        """Serve the base model, if it is not served, and draw. `job.borrowed` is a `serving.served.Served`."""
        from esft_bench.harness.serving.divergence import draw  # here: torch takes seconds to import

        how = self._serve(job)
        drawn = draw(job.borrowed.lm(), read_jsonl(self.items.path), job.progress, self.training.loading.prompt)
        job.borrowed.confirm()
        draft_jsonl(job.out / SAMPLES, [each.model_dump() for each in drawn])
        return how


@dataclass(frozen=True, eq=False)
class DivergeStep(_Asked):
    """Ask a model how likely it finds what the base model said. `title` is the measure's."""

    kind: ClassVar[str] = "divergence"
    samples: SampleStep
    title: str

    @property
    def label(self) -> str:
        """Cell and measure."""
        return f"{self.name}: {self.title}"

    @property
    def needs(self) -> Mapping[str, Step]:
        """The trainings whose adapters make the model, and the base model's answers."""
        return {**super().needs, "samples": self.samples}

    @property
    def contents(self) -> Mapping[str, Content]:
        """The backbone."""
        return {"backbone": self.training.backbone}

    def run(self, job: Job) -> dict[str, Any]:
        """Serve the model, if it is not served, and ask. `job.borrowed` is a `serving.served.Served`."""
        from esft_bench.harness.serving.divergence import Drawn, divergence  # here: torch takes seconds to import

        how = self._serve(job)
        drawn = [Drawn.model_validate(row) for row in read_jsonl(job.inputs["samples"] / SAMPLES)]
        scores = divergence(job.borrowed.lm(), drawn)
        job.borrowed.confirm()
        draft_jsonl(job.out / ITEMS, [score.model_dump() for score in scores])
        return how
