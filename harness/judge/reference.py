"""The judge for runs without an endpoint: character n-gram F-score against the reference."""

from collections.abc import Sequence
from typing import Any

from esft_bench.harness.judge.base import JudgeItem, Verdict
from esft_bench.tasks.likeness import likeness
from esft_bench.tasks.task import Rubric


class ReferenceJudge:
    """chrF of each answer against its reference, in [0, 1].

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
        return [_verdict(item) for item in items]

    def close(self) -> None:
        """Nothing waits."""


def _verdict(item: JudgeItem) -> Verdict:
    found = likeness(item.completion, item.answer)
    return Verdict(None, "unscored", "the item has no reference") if found is None else Verdict(found)
