"""Steps that compute nothing: they write what such a step would leave, made up from its identity. Light to import."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from esft_bench.harness.steps.answer import AnswerStep
from esft_bench.harness.steps.judge import JudgeStep
from esft_bench.harness.steps.profile import ProfileStep
from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.store.draft import draft_json, draft_jsonl
from esft_bench.harness.store.keys import Code
from esft_bench.harness.store.names import ADAPTER, AFTER, ITEMS, LM_EVAL, LOG
from esft_bench.methods.moe.layout import CONFIG, AdapterConfig
from esft_bench.spec.record import ItemScore

LAYERS, EXPERTS, CHOSEN = (1, 2, 3, 4), 64, 5
PROFILE = "profile.safetensors"


@dataclass(frozen=True)
class Nothing:
    """In place of a step: write what it would leave. `counts` are the benchmarks' items, `profile` a profile's file."""

    counts: Mapping[str, int]
    profile: bytes

    def __call__(self, step: Step, job: Job) -> dict[str, Any]:
        """What the step measured."""
        draw, out = random.Random(step.identity), job.out
        if isinstance(step, TrainStep):
            return self._trained(out, draw, step.training.steps)
        if isinstance(step, ProfileStep):
            (out / PROFILE).write_bytes(self.profile)
        elif isinstance(step, AnswerStep | JudgeStep):
            answers = step.answers if isinstance(step, JudgeStep) else step
            count = self.counts[answers.benchmark.name]
            scores = [ItemScore(id=str(item), score=float(draw.random() < 0.6)) for item in range(count)]
            draft_jsonl(out / ITEMS, [score.model_dump() for score in scores])
            draft_json(out / LM_EVAL, {"results": {}})
            return {"seconds": 1.0, "loaded": "swapped", "load_seconds": 0.1, "canary": 0.0, "decoding": "greedy"}
        else:
            (out / "content").write_text(step.identity)
        return {"seconds": 1.0}

    def _trained(self, out: Path, draw: random.Random, steps: int) -> dict[str, Any]:
        for folder in (ADAPTER, AFTER):
            (out / folder).mkdir()
        chosen = {layer: sorted(draw.sample(range(EXPERTS), CHOSEN)) for layer in LAYERS}
        draft_json(out / ADAPTER / CONFIG, AdapterConfig(experts=chosen).model_dump())
        (out / AFTER / PROFILE).write_bytes(self.profile)
        draft_json(out / LOG, {"losses": [draw.random() for _ in range(steps)]})
        names = ("seconds", "cpu_seconds", "steps", "peak_memory_bytes", "stored_bytes", "trainable_parameters")
        return {name: 1000.0 * (1 + draw.random()) for name in names}


@dataclass(frozen=True, eq=False)
class Nap(Step):
    """A step for another one, to which it is equal: it leaves what is made up of it, and takes so many seconds."""

    kind: ClassVar[str] = "nap"
    of: Step
    does: Nothing
    seconds: float

    def __post_init__(self) -> None:
        vars(self)["identity"] = self.of.identity

    @property
    def label(self) -> str:
        """The step's."""
        return self.of.label

    @property
    def needs(self) -> Mapping[str, Step]:
        """Nothing: who starts it has seen to that."""
        return {}

    @property
    def contents(self) -> Mapping[str, Content]:
        """Nothing."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def code(self) -> Code:
        """None."""
        return Code(())

    @property
    def resources(self) -> Resources:
        """The step's."""
        return self.of.resources

    def run(self, job: Job) -> dict[str, Any]:
        """Leave what is made up, and nap for the rest of the time."""
        until = time.monotonic() + self.seconds
        measured = self.does(self.of, job)
        time.sleep(max(0.0, until - time.monotonic()))
        return measured


class Naps(Nap):
    """One for a step of a kind that is best run together: as many take as long as they would one after the other."""

    together: ClassVar[bool] = True


def nap(step: Step, does: Nothing, seconds: float) -> Nap:
    """What takes a step's place."""
    return (Naps if step.together else Nap)(step, does, seconds)
