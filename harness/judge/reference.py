"""The judge for runs without an endpoint: character n-gram F-score against the reference."""

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import CHRF

from esft_bench.harness.judge.base import JudgeItem, Verdict
from esft_bench.tasks.task import Rubric


class ReferenceJudge:
    """chrF of each answer against its reference (Popović 2015, as sacrebleu computes it), 0–100 scaled to [0, 1].

    It measures likeness of wording, not quality; tables name it wherever it judged.
    """

    name = "reference (chrF)"

    @property
    def identity(self) -> list[Any]:
        """There is only one."""
        return ["reference"]

    @property
    def notes(self) -> list[str]:
        """Tables name it; there is no more to say."""
        return []

    def announce(self, rubric: Rubric, items: Sequence[JudgeItem]) -> None:
        """Nothing is sent anywhere."""

    def score(self, rubric: Rubric, items: Sequence[JudgeItem]) -> list[Verdict]:
        """One verdict for each item, in order; an item without a reference is unscored."""
        metric = CHRF()
        return [_verdict(metric, item) for item in items]

    def close(self) -> None:
        """Nothing waits."""


def _verdict(metric: CHRF, item: JudgeItem) -> Verdict:
    reference = item.answer.strip()
    if not reference:
        return Verdict(None, "unscored", "the item has no reference")
    return Verdict(metric.sentence_score(item.completion.strip(), [reference]).score / 100)
