"""A suite's `judge` section: who scores free text, how it is asked, and what that costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

DEFAULT_MODEL = "gpt-6.1-terra"
"""OpenAI's middle model since October 2026. The paper's judge, gpt-4-1106-preview, was shut down on 2026-10-23
(developers.openai.com/api/docs/deprecations)."""
SET_ELSEWHERE = {"model", "messages", "temperature", "seed", "stream", "n"}
LIMITS = ("max_completion_tokens", "max_tokens")
"""What the field that bounds a reply is called: at OpenAI's own endpoint, and elsewhere."""
DAY = 86_400.0


class Price(BaseModel):
    """Dollars for a million tokens, read (`input`) and written (`output`); `batch` is a batch's share of that price."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    input: NonNegativeFloat
    output: NonNegativeFloat
    batch: float = Field(1.0, gt=0, le=1)

    def of(self, tokens_in: int, tokens_out: int, *, batch: bool) -> float:
        """Dollars for so many tokens. Discounts for inputs that a server has cached are not counted."""
        return (self.input * tokens_in + self.output * tokens_out) / 1e6 * (self.batch if batch else 1.0)


PRICES: Mapping[str, Price] = {
    "gpt-6.1-sol": Price(input=2.0, output=10.0, batch=0.5),
    "gpt-6.1-terra": Price(input=1.0, output=5.0, batch=0.5),
    "gpt-6-luna": Price(input=0.1, output=0.5, batch=0.5),
}
"""OpenAI's list prices as of 2026-10-26 for inputs of at most 272 000 tokens, at OpenAI's own endpoint. Sources:
docs.litellm.ai/blog/gpt-6-1-terra (sol, terra; batches cost half), and for luna
codersera.com/blog/gpt-4o-gpt-4-1-api-shutdown-migration-2026; that luna's batches cost half too is assumed."""
OWN_URL = "https://api.openai.com/v1"
ADDRESS = TypeAdapter(AnyHttpUrl)


class JudgeSettings(BaseModel):
    """The suite's `judge` section.

    Attributes:
        kind: `reference` (chrF, no endpoint) or `openai` (any OpenAI-compatible endpoint).
        rubric: `ours`, or `paper`: the ESFT paper's prompts, word for word (Table 5), for the tasks that it judged.
        model: name of the judge's model. At OpenAI's own endpoint there is a default; elsewhere it is needed.
        base_url: the endpoint, e.g. `http://localhost:8000/v1`; None: OpenAI's own, whatever the environment says.
        key_env: the environment variable that holds the key. Without it the reference judge is used.
        temperature, seed: sent along; None leaves them out. A model that refuses one is asked without it.
        options: further fields of the request, e.g. `{reasoning_effort: low}`.
        max_tokens: where a reply is cut, thinking included. It is no part of the identity: a longer one is unreadable.
        price: dollars for a million tokens; needed for a `budget` where the model's price is not known.
        budget: dollars that the judge may cost in one run, over all its attempts; None: no limit.
        batch: send the requests as a batch (cheaper, within 24 hours) instead of one by one.
        concurrency: the most requests under way at a time; there are fewer while the endpoint pushes back.
        retries: how often a request that met an outage or a rate limit is sent again.
        backoff: seconds before it is, doubled each time; a server's Retry-After goes before.
        timeout: seconds for one request, from its first byte to the last of its answer.
        poll: seconds between two looks at a batch.
        cache: SQLite file of replies; None: `esft-bench/judge.sqlite` in the user's cache folder.
        second: another judge, asked about every answer too; the report says how far the two agree.
        probes: so many answers of each judged benchmark and cell are judged twice more, once with the answer before the
            reference and once made longer by saying all of it again: a judge that looks at quality alone stays at its
            score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: Literal["reference", "openai"] = "reference"
    rubric: Literal["ours", "paper"] = "ours"
    model: str = ""
    base_url: str | None = None
    key_env: str = "OPENAI_API_KEY"
    temperature: float | None = Field(0.0, ge=0)
    seed: int | None = 0
    options: dict[str, Any] = {}
    price: Price | None = None
    budget: PositiveFloat | None = None
    batch: bool = False
    max_tokens: PositiveInt = 4096
    concurrency: int = Field(16, ge=1, le=1024)
    retries: int = Field(8, ge=0, le=100)
    backoff: float = Field(1.0, gt=0, le=DAY)
    timeout: float = Field(60.0, gt=0, le=DAY)
    poll: float = Field(30.0, gt=0, le=DAY)
    cache: Path | None = None
    second: "JudgeSettings | None" = None
    probes: NonNegativeInt = 0

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
        if self.base_url is not None:
            _check_address(self.base_url)
        if self.second is not None and self.second.identity == self.identity:
            raise ValueError("'second' is the same judge once more: name another one, or leave it out")
        if self.second is not None and (self.second.second or self.second.probes or self.second.batch):
            raise ValueError("'second' can have no 'second', 'probes' or 'batch' of its own")
        return self

    @property
    def own(self) -> bool:
        """Whether OpenAI itself is asked."""
        return self.base_url is None or urlsplit(self.base_url).hostname == urlsplit(OWN_URL).hostname

    @property
    def rate(self) -> Price | None:
        """What the judge costs: the given price, else the known one; None where neither is there."""
        return self.price or (PRICES.get(self.model) if self.own else None)

    @property
    def output_limit(self) -> int:
        """The most tokens of a reply, whether given as such or among the options."""
        given = [self.options[name] for name in LIMITS if isinstance(self.options.get(name), int)]
        return max(given, default=self.max_tokens)

    @property
    def identity(self) -> list[Any]:
        """What makes it another judge: what is asked, where and how; not how fast, for how much or by which way."""
        if self.kind == "reference":
            return [self.kind]
        return [self.model, self.base_url, self.temperature, self.seed, self.options]


def _check_address(text: str) -> None:
    """Raise ValueError where an endpoint's address cannot be one, or holds what it should not."""
    try:
        url = ADDRESS.validate_python(text)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise ValueError(f"'base_url' is no address, e.g. http://localhost:8000/v1 ({said})") from None
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("'base_url' may hold no user, password or query: keys come from the environment only")
    labels = (urlsplit(text).hostname or "").removesuffix(".").split(".")
    if not url.port or not all(0 < len(label) < 64 for label in labels):
        raise ValueError("'base_url' is no address: it names no host or no port that can be one")
    if not text.isprintable() or text != text.strip() or "\\" in text:
        raise ValueError("'base_url' is no address: it holds spaces, control characters or backslashes")
