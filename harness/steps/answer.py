"""The answer step: what a trained model answers to the items of a benchmark, and how lm-eval scores it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.benchmark import Benchmark
from esft_bench.harness.steps.question import QuestionStep
from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.store.draft import draft_json, draft_jsonl
from esft_bench.harness.store.keys import Code
from esft_bench.harness.store.names import ITEMS, LM_EVAL, REQUESTS
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.progress import Progress

if TYPE_CHECKING:
    from esft_bench.harness.evaluate import Asked

LONGEST = 256
"""lm-eval's own bound on an answer's tokens, where a benchmark names none."""


@dataclass(frozen=True, eq=False)
class AnswerStep(Step):
    """Have a trained model answer a benchmark's items.

    `name` is the cell's, `training` what made the model, `questions` the benchmark's items as they are asked;
    `repeat` counts from 1 where the same model is asked the same items again.
    """

    kind: ClassVar[str] = "answers"
    together: ClassVar[bool] = True
    name: str
    training: TrainStep
    questions: QuestionStep
    engine: EngineSettings
    repeat: int = 0

    @property
    def benchmark(self) -> Benchmark:
        """What is asked."""
        return self.questions.benchmark

    @property
    def label(self) -> str:
        """Cell and benchmark."""
        return f"{self.name}: {self.benchmark.title}{f', again ({self.repeat})' if self.repeat else ''}"

    @property
    def needs(self) -> Mapping[str, Step]:
        """The trainings whose adapters make the model, and what it is asked."""
        trained = {f"training {number}": step for number, step in enumerate(self.training.ends_with)}
        return {**trained, "questions": self.questions}

    @property
    def contents(self) -> Mapping[str, Content]:
        """Backbone and items."""
        return {"backbone": self.training.backbone, "items": self.questions.items}

    @property
    def settings(self) -> dict[str, Any]:
        """The engine and the benchmark; which time it is, but for the first, so that it is truly asked again."""
        again = {"repeat": self.repeat} if self.repeat else {}
        return again | {
            "engine": self.engine.name,
            "precision": self.training.loading.precision,
            "prompt": self.training.loading.prompt,
            "max_length": self.engine.max_length,
            "benchmark": self.benchmark.settings,
        }

    @property
    def code(self) -> Code:
        """How answers are asked for and scored, how the model is merged, and the libraries that do it."""
        how = ("esft_bench.harness.serving.questions", "esft_bench.harness.serving.lm", "esft_bench.harness.merging")
        merging = [name for step in self.training.ends_with for name in step.modules]
        libraries = ("lm_eval", self.engine.name.split()[0], "transformers", "tokenizers", "torch")
        return Code((*how, *self.benchmark.modules, *dict.fromkeys(merging)), libraries)

    @property
    def resources(self) -> Resources:
        """An engine, at best one that serves this model already."""
        return Resources("engine", self.engine, state=self.training.identity, gpus=self.engine.gpus)

    def weight(self, job: Job) -> float:
        """Tokens that the answers may have; one for each request that compares choices."""
        return _tokens(job.inputs["questions"])

    def run(self, job: Job) -> dict[str, Any]:
        """Serve the model, if it is not served, and ask. `job.borrowed` is a `serving.served.Served`."""
        return self.run_together([(self, job)])[0]

    @classmethod
    def run_together(cls, work: Sequence[tuple[Self, Job]]) -> list[dict[str, Any]]:
        """Ask one model several benchmarks in one go, so that the engine is busy until the last is answered."""
        return [told for wave in _waves(work) for told in _asked_together(wave)]


def _waves(work: Sequence[tuple[AnswerStep, Job]]) -> list[list[tuple[AnswerStep, Job]]]:
    """Work in parts in each of which no benchmark is asked twice, in order."""
    waves: list[list[tuple[AnswerStep, Job]]] = []
    for step, job in work:
        if not waves or any(step.benchmark.name == other.benchmark.name for other, _ in waves[-1]):
            waves.append([])
        waves[-1].append((step, job))
    return waves


def _asked_together(work: Sequence[tuple[AnswerStep, Job]]) -> list[dict[str, Any]]:
    """Serve the model that all of these steps ask, ask, and write what came of each; returns what that took."""
    from esft_bench.harness.evaluate import evaluate  # here: lm-eval takes seconds to import
    from esft_bench.harness.serving.requests import DECODING

    started = time.perf_counter()
    step, job = work[0]
    trained = [folder for role, folder in job.inputs.items() if role.startswith("training")]
    model = step.training.identity, step.training.backbone.path, trained, job.scratch
    loaded = [job.borrowed.serve(*model) for _ in work]  # the others find it served
    asked = [_asked(step.benchmark, step.questions.items.path, job.inputs["questions"]) for step, job in work]
    progress = _shared([job.progress for _, job in work], [each.requests for each in asked])
    answered = evaluate(job.borrowed.lm(), asked, progress)
    job.borrowed.confirm()
    for step, job in work:
        found = answered[step.benchmark.name]
        draft_jsonl(job.out / ITEMS, [score.model_dump() for score in found.scores])
        draft_json(job.out / LM_EVAL, found.results)
    seconds = (time.perf_counter() - started) / len(work)
    return [
        {
            **{"decoding": DECODING, "seconds": seconds, "loaded": each.how},
            **{"load_seconds": each.seconds, "canary": each.difference},
        }
        for each in loaded
    ]


@cache
def _asked(benchmark: Benchmark, items: Path, questions: Path) -> "Asked":
    """A benchmark, read once in a process that asks many models. Both paths name what lies there by its contents."""
    from esft_bench.harness.serving.questions import read_questions

    return read_questions(benchmark, list(read_jsonl(items)), questions)


@cache
def _tokens(questions: Path) -> float:
    """The most tokens that a benchmark's answers may have; a request for likelihoods counts as one."""
    asked = [row["more"] for row in read_jsonl(questions / REQUESTS)]
    options = (more[0] if more and isinstance(more[0], dict) else None for more in asked)
    return float(sum(1 if each is None else each.get("max_gen_toks", LONGEST) for each in options))


def _shared(each: Sequence[Progress], sizes: Sequence[int]) -> Progress:
    """One progress told to several steps of these sizes, as if all went on evenly."""

    def progress(done: int, total: int) -> None:
        for tell, size in zip(each, sizes, strict=True):
            tell(size * done // total, size)

    return progress
