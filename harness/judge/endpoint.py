"""Requests to an OpenAI-compatible endpoint that may be slow, busy or down."""

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    OpenAI,
    OpenAIError,
    RateLimitError,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esft_bench.harness.judge.base import Usage
from esft_bench.harness.judge.cache import Said
from esft_bench.harness.judge.pace import Pace
from esft_bench.harness.judge.question import Messages
from esft_bench.spec.judge import JudgeSettings

LONGEST_PAUSE = 600.0
"""Seconds; a server that asks for more is down as far as a run is concerned."""
LONGEST_BACKOFF = 60.0
REASON_CHARACTERS = 500
OPTIONAL = ("temperature", "seed")
T = TypeVar("T")


class OutageError(Exception):
    """The endpoint could not be asked, retries included; the text says why and holds no key."""


class _Loose(BaseModel):
    """Parts of an answer that are read; the rest may be anything."""

    model_config = ConfigDict(extra="ignore")


class _Message(_Loose):
    content: str | None = None


class _Choice(_Loose):
    message: _Message


class _Tokens(_Loose):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(_Loose):
    """A chat completion, as far as it is read."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Tokens | None = None

    def said(self, settings: JudgeSettings, *, batch: bool) -> Said:
        """The text that came back, empty where there is none, and what it took."""
        tokens = self.usage or _Tokens()
        count = (tokens.prompt_tokens, tokens.completion_tokens)
        dollars = settings.rate.of(*count, batch=batch) if settings.rate else 0.0
        return Said(self.choices[0].message.content or "", Usage(1, *count, dollars))


class Endpoint:
    """Asks for chat completions at the pace the server bears, and waits out what passes.

    A rate limit, a timeout, a broken connection, a server's error and a body that is no completion are tried again;
    what the server refuses is not. A `Retry-After` holds for all requests.
    """

    def __init__(self, settings: JudgeSettings, api_key: str) -> None:
        self.settings = settings
        self.client = OpenAI(
            api_key=api_key, base_url=settings.base_url, max_retries=0, timeout=settings.timeout
        )  # retries are ours, since a pause must hold for all threads
        self.pace = Pace(settings.concurrency)
        self.refused: set[str] = set()
        self._api_key = api_key

    def body(self, asked: Messages) -> dict[str, Any]:
        """The request that asks for a completion, without the optional fields that the model refuses."""
        wanted = {"temperature": self.settings.temperature, "seed": self.settings.seed}
        options = {name: value for name, value in wanted.items() if value is not None and name not in self.refused}
        return {"model": self.settings.model, "messages": asked, **options, **self.settings.options}

    def complete(self, asked: Messages) -> Said:
        """One completion. Raises OutageError where it cannot be had."""

        def send() -> Said:
            body = self.body(asked)
            more = {name: value for name, value in body.items() if name not in ("model", "messages")}
            create = self.client.chat.completions.with_raw_response.create
            answer = create(model=body["model"], messages=body["messages"], extra_body=more)
            return read_completion(answer.http_response.content).said(self.settings, batch=False)

        return self.call(send)

    def call(self, send: Callable[[], T]) -> T:
        """What a request gives, sent again as often as the settings allow. Raises OutageError where it gives nothing.

        `send` raises OpenAIError, or ValueError where the body is not what it should be.
        """
        attempt = 0
        while True:
            with self.pace.turn() as began:
                try:
                    answer = send()
                except (OpenAIError, ValueError) as error:
                    caught = error
                else:
                    self.pace.went_well()
                    return answer
            if isinstance(caught, BadRequestError) and self.leave_out_what_is_refused(str(caught)):
                continue
            pause = self._pause(caught, attempt)
            if pause is None or attempt >= self.settings.retries:
                raise OutageError(self.clean(f"{type(caught).__name__}: {caught}")) from None
            attempt += 1
            self._wait(caught, began, pause)

    def clean(self, text: str) -> str:
        """A text from outside in one line, shortened and without the key."""
        return " ".join(text.replace(self._api_key, "***").split())[:REASON_CHARACTERS]

    def leave_out_what_is_refused(self, complaint: str) -> bool:
        """Whether a refusal (status 400) names an optional field that is sent; it is not sent from then on."""
        named = {name for name in OPTIONAL if name in complaint} & self.body([]).keys()
        self.refused |= named
        return bool(named)

    def _pause(self, error: Exception, attempt: int) -> float | None:
        """Seconds to wait before the next attempt; None where there is no use in one."""
        backoff = min(self.settings.backoff * 2**attempt, LONGEST_BACKOFF) * random.uniform(0.75, 1.25)
        if isinstance(error, APIStatusError):
            passing = error.status_code in (408, 409, 429) or error.status_code >= 500
            asked = retry_after(error.response.headers)
            if not passing or error.code == "insufficient_quota" or (asked or 0) > LONGEST_PAUSE:
                return None
            return backoff if asked is None else asked
        return backoff if isinstance(error, APIConnectionError | ValueError) else None

    def _wait(self, error: Exception, began: float, pause: float) -> None:
        """Wait before the next attempt: all together where the server wants fewer requests, else this one alone."""
        asked = isinstance(error, APIStatusError) and retry_after(error.response.headers) is not None
        if isinstance(error, RateLimitError) or asked:
            self.pace.pushed_back(began, pause)
            return
        if isinstance(error, APITimeoutError):
            self.pace.pushed_back(began, 0.0)
        self.pace.sleep(pause)


def read_completion(body: bytes | str) -> Completion:
    """The completion in an answer's body. Raises ValueError, in a few words, where it is none."""
    try:
        return Completion.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(f"the body is no chat completion ({error.errors()[0]['msg']})") from None


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, 10.2.3: a number or a date; some send milliseconds)."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError):
        return None
