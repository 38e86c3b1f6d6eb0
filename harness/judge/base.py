"""What a judge is, what it is given and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from esft_bench.tasks.task import Rubric


class JudgeItem(Protocol):
    """What a judge looks at: the prompt, the model's completion and the reference answer."""

    @property
    def prompt(self) -> str:
        """The user's text."""

    @property
    def completion(self) -> str:
        """What the model answered."""

    @property
    def answer(self) -> str:
        """The reference."""


@dataclass(frozen=True)
class Usage:
    """What replies took: requests that were answered, tokens read and written, and their price (0 where unknown)."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    dollars: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.dollars + other.dollars,
        )


@dataclass(frozen=True)
class Verdict:
    """A judge's word on one answer.

    `score` is in [0, 1]; None with state `unscored` (no readable verdict) or `failed` (the judge could not be asked).
    `usage` is what its replies took, whether they were paid for now or are stored from before.
    """

    score: float | None
    state: Literal["scored", "unscored", "failed"] = "scored"
    reason: str = ""
    usage: Usage = Usage()


class Judge(Protocol):
    """Scores free-text answers by a rubric."""

    @property
    def name(self) -> str:
        """How tables call the judge."""

    @property
    def identity(self) -> list[Any]:
        """What makes it another judge (see `JudgeSettings.identity`)."""

    @property
    def notes(self) -> list[str]:
        """What the report must say about how it judged."""

    def announce(self, rubric: Rubric, items: Sequence[JudgeItem]) -> None:
        """Say that these will be judged soon, so that a judge that works in batches can send them off."""

    def score(self, rubric: Rubric, items: Sequence[JudgeItem]) -> list[Verdict]:
        """One verdict for each item, in order. A judge that works in batches waits for them."""

    def close(self) -> None:
        """Ask nothing any more: what waits in other threads ends."""
