"""The judge step: verdicts on a model's free-text answers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from esft_bench.harness.steps.answer import AnswerStep
from esft_bench.harness.steps.step import Content, Job, Resources, Step
from esft_bench.harness.store.artifacts import Artifact
from esft_bench.harness.store.draft import draft_jsonl
from esft_bench.harness.store.keys import Code
from esft_bench.harness.store.names import ITEMS
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.record import ItemScore
from esft_bench.tasks.task import Rubric

REASONS = 3
"""So many of the reasons why answers could not be judged are kept, and printed."""


Probe = Literal["order", "verbosity"]


@dataclass(frozen=True, eq=False)
class JudgeStep(Step):
    """Have answers judged by a rubric.

    Attributes:
        answers: what is judged.
        rubric: how.
        judge: the judge's name and what makes it another one.
        probe: judge the first `count` answers as they should not matter: shown before the reference (`order`), or
            made longer by saying all of it again (`verbosity`).
    """

    kind: ClassVar[str] = "verdicts"
    answers: AnswerStep
    rubric: Rubric
    judge: tuple[str, Any]
    probe: Probe | None = None
    count: int | None = None

    @property
    def label(self) -> str:
        """That of the answers."""
        return f"{self.answers.label}, judged{f' ({self.probe})' if self.probe else ''}"

    @property
    def needs(self) -> Mapping[str, Step]:
        """The answers."""
        return {"answers": self.answers}

    @property
    def contents(self) -> Mapping[str, Content]:
        """Nothing."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """Judge and rubric."""
        probe = {"probe": self.probe, "count": self.count} if self.probe else {}
        return {"judge": list(self.judge), "rubric": asdict(self.rubric), **probe}

    @property
    def code(self) -> Code:
        """How a judge is asked and read."""
        return Code(("esft_bench.harness.judge",), ("sacrebleu",))

    @property
    def resources(self) -> Resources:
        """A connection."""
        return Resources("network", gpus=0)

    def run(self, job: Job) -> dict[str, Any]:
        """Ask one of `job.borrowed`, a panel. What it could not judge is counted, and asked again by the next run."""
        from esft_bench.harness.judge import Usage

        rows = read_jsonl(job.inputs["answers"] / ITEMS)
        stored = [ItemScore.model_validate(row) for row in rows][: self.count]
        rubric = replace(self.rubric, answer_first=self.probe == "order")
        verdicts = job.borrowed.of(self.judge[1]).score(rubric, [self._shown(item) for item in stored])
        judged = [
            item.model_copy(update={"score": verdict.score, "state": verdict.state, "reason": verdict.reason})
            for item, verdict in zip(stored, verdicts, strict=True)
        ]
        draft_jsonl(job.out / ITEMS, [item.model_dump() for item in judged])
        silent = [verdict.reason for verdict in verdicts if verdict.state == "failed"]
        usage = asdict(sum((verdict.usage for verdict in verdicts), Usage()))
        reasons = list(dict.fromkeys(silent))[:REASONS]
        return {"failed": len(silent), "why": reasons, **{f"judge_{name}": value for name, value in usage.items()}}

    def _shown(self, item: ItemScore) -> ItemScore:
        """An answer as the judge is to see it."""
        if self.probe != "verbosity":
            return item
        said = item.completion.strip()
        return item.model_copy(update={"completion": f"{said}\n\n{said}"})

    def is_complete(self, artifact: Artifact) -> bool:
        """Whether every answer could be judged."""
        return not artifact.partial
