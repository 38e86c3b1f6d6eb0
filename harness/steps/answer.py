"""The answer step: what a trained model answers to the items of a benchmark, and how lm-eval scores it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.benchmark import Benchmark
from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.store.keys import Code, modules_of
from esft_bench.harness.store.names import ITEMS
from esft_bench.spec.files import read_jsonl, write_jsonl


@dataclass(frozen=True, eq=False)
class AnswerStep(Step):
    """Have a trained model answer a benchmark's items.

    `name` is the cell's, `training` what made the model, `items` the benchmark's items; `repeat` counts from 1 where
    the same model is asked the same items again.
    """

    kind: ClassVar[str] = "answers"
    name: str
    training: TrainStep
    benchmark: Benchmark
    items: Content
    engine: EngineSettings
    repeat: int = 0

    @property
    def label(self) -> str:
        """Cell and benchmark."""
        return f"{self.name}: {self.benchmark.title}{f', again ({self.repeat})' if self.repeat else ''}"

    @property
    def needs(self) -> Mapping[str, Step]:
        """The trainings whose adapters make the model."""
        return {f"training {number}": step for number, step in enumerate(self.training.ends_with)}

    @property
    def contents(self) -> Mapping[str, Content]:
        """Backbone and items."""
        return {"backbone": self.training.backbone, "items": self.items}

    @property
    def settings(self) -> dict[str, Any]:
        """The engine and the benchmark; which time it is, but for the first, so that it is truly asked again."""
        task = self.benchmark
        again = {"repeat": self.repeat} if self.repeat else {}
        return again | {
            "engine": self.engine.name,
            "precision": self.training.loading.precision,
            "max_length": self.engine.max_length,
            "benchmark": task.settings,
        }

    @property
    def code(self) -> Code:
        """How answers are asked for and scored, how the model is merged, and the libraries that do it."""
        how = ("esft_bench.harness.evaluate", "esft_bench.harness.serving.lm", "esft_bench.harness.merging")
        merging = [name for step in self.training.ends_with for name in modules_of(step.method)]
        libraries = ("lm_eval", self.engine.name.split()[0], "transformers", "tokenizers", "torch")
        return Code((*how, *self.benchmark.modules, *dict.fromkeys(merging)), libraries)

    @property
    def resources(self) -> Resources:
        """An engine, at best one that serves this model already."""
        return Resources("engine", self.engine, state=self.training.identity)

    def run(self, job: Job) -> dict[str, Any]:
        """Serve the model, if it is not served, and ask. `job.borrowed` is a `serving.served.Served`."""
        from esft_bench.harness.evaluate import evaluate  # here: lm-eval takes seconds to import
        from esft_bench.harness.serving.requests import DECODING

        trained = list(job.inputs.values())
        started = time.perf_counter()
        loaded = job.borrowed.serve(self.training.identity, self.training.backbone.path, trained, job.scratch)
        items = read_jsonl(self.items.path)
        scores = evaluate(job.borrowed.lm(), [(self.benchmark, items)], job.out, job.progress)
        write_jsonl(job.out / ITEMS, [score.model_dump() for score in scores[self.benchmark.name]])
        about = {"loaded": loaded.how, "load_seconds": loaded.seconds, "canary": loaded.difference}
        return {"decoding": DECODING, "seconds": time.perf_counter() - started, **about}
