"""What a judge is, what it is given and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from tasks.task import Task


class JudgeSettings(BaseModel):
    """The suite's `judge` section.

    Attributes:
        kind: `reference` (chrF, no endpoint) or `openai` (any OpenAI-compatible endpoint).
        model: name of the judge's model; needed for `openai`.
        base_url: the endpoint, e.g. `http://localhost:8000/v1`; None: the client's default.
        key_env: the environment variable that holds the key. Without it the reference judge is used.
        concurrency: requests under way at a time.
        retries: how often the client repeats a request that met an outage or a rate limit (it honours Retry-After).
        timeout: seconds for one request.
        temperature: None leaves it out, for models that refuse to have it set.
        seed: sent along, for endpoints that honour it; None leaves it out.
        cache: SQLite file of replies; None: `esft-bench/judge.sqlite` in the user's cache folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["reference", "openai"] = "reference"
    model: str = ""
    base_url: str | None = None
    key_env: str = "OPENAI_API_KEY"
    concurrency: PositiveInt = 8
    retries: int = Field(5, ge=0)
    timeout: PositiveFloat = 60.0
    temperature: float | None = Field(0.0, ge=0)
    seed: int | None = 0
    cache: Path | None = None

    @model_validator(mode="after")
    def _names_a_model(self) -> Self:
        if self.kind == "openai" and not self.model:
            raise ValueError("a judge of kind 'openai' needs a 'model'")
        return self


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
class Verdict:
    """A judge's word on one answer.

    `score` is in [0, 1]; None with state `unscored` (no readable verdict) or `failed` (the judge could not be asked).
    `tokens` counts what was spent on it now: 0 for a stored reply.
    """

    score: float | None
    state: Literal["scored", "unscored", "failed"] = "scored"
    reason: str = ""
    tokens: int = 0


class Judge(Protocol):
    """Scores the answers to a judged task."""

    @property
    def name(self) -> str:
        """How tables call the judge."""

    def score(self, task: Task, items: Sequence[JudgeItem]) -> list[Verdict]:
        """One verdict for each item, in order. The task has a rubric."""
