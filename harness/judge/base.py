"""What a judge is, what it is given and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from harness.judge.prices import Price, price_of
from tasks.task import Task

DEFAULT_MODEL = "gpt-6.1-terra"
"""OpenAI's middle model since October 2026. The paper's judge, gpt-4-1106-preview, was shut down on 2026-10-23
(developers.openai.com/api/docs/deprecations)."""
SET_ELSEWHERE = {"model", "messages", "temperature", "seed", "stream", "n"}


class JudgeSettings(BaseModel):
    """The suite's `judge` section.

    Attributes:
        kind: `reference` (chrF, no endpoint) or `openai` (any OpenAI-compatible endpoint).
        model: name of the judge's model. At OpenAI's own endpoint there is a default; elsewhere it is needed.
        base_url: the endpoint, e.g. `http://localhost:8000/v1`; None: the client's default.
        key_env: the environment variable that holds the key. Without it the reference judge is used.
        temperature, seed: sent along; None leaves them out. A model that refuses one is asked without it.
        options: further fields of the request, e.g. `{reasoning_effort: low}`.
        price: dollars for a million tokens; needed for a `budget` where the model's price is not known.
        budget: dollars that the judge may cost in one run, over all its attempts; None: no limit.
        batch: send the requests as a batch (cheaper, within 24 hours) instead of one by one.
        concurrency: the most requests under way at a time; there are fewer while the endpoint pushes back.
        retries: how often a request that met an outage or a rate limit is sent again.
        backoff: seconds before it is, doubled each time; a server's Retry-After goes before.
        timeout: seconds for one request.
        poll: seconds between two looks at a batch.
        cache: SQLite file of replies; None: `esft-bench/judge.sqlite` in the user's cache folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["reference", "openai"] = "reference"
    model: str = ""
    base_url: str | None = None
    key_env: str = "OPENAI_API_KEY"
    temperature: float | None = Field(0.0, ge=0)
    seed: int | None = 0
    options: dict[str, Any] = {}
    price: Price | None = None
    budget: PositiveFloat | None = None
    batch: bool = False
    concurrency: PositiveInt = 16
    retries: int = Field(8, ge=0)
    backoff: PositiveFloat = 1.0
    timeout: PositiveFloat = 60.0
    poll: PositiveFloat = 30.0
    cache: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_model(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("kind") == "openai" and not given.get("base_url"):
            return {"model": DEFAULT_MODEL, **given}
        return given

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        if self.kind == "openai" and not self.model:
            raise ValueError("a judge of kind 'openai' needs a 'model'")
        if set(self.options) & SET_ELSEWHERE:
            raise ValueError(f"'options' may not hold {', '.join(sorted(set(self.options) & SET_ELSEWHERE))}")
        url = urlsplit(self.base_url or "")
        if url.username or url.password or url.query:
            raise ValueError("'base_url' may hold no user, password or query: keys come from the environment only")
        return self

    @property
    def rate(self) -> Price | None:
        """What the judge costs: the given price, else the known one."""
        return self.price or price_of(self.model, self.base_url)

    @property
    def identity(self) -> list[Any]:
        """What makes it another judge: what is asked, where and how; not how fast, for how much or by which way."""
        if self.kind == "reference":
            return [self.kind]
        return [self.model, self.base_url, self.temperature, self.seed, self.options]


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
    """Scores the answers to a judged task."""

    @property
    def name(self) -> str:
        """How tables call the judge."""

    @property
    def identity(self) -> list[Any]:
        """What makes it another judge (see `JudgeSettings.identity`)."""

    @property
    def notes(self) -> list[str]:
        """What the report must say about how it judged."""

    def announce(self, task: Task, items: Sequence[JudgeItem]) -> None:
        """Say that these will be judged soon, so that a judge that works in batches can send them off."""

    def score(self, task: Task, items: Sequence[JudgeItem]) -> list[Verdict]:
        """One verdict for each item, in order. The task has a rubric."""
