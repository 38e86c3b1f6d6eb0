"""Requests to an OpenAI-compatible endpoint that may be slow, busy, down or confused."""

import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, BadRequestError, OpenAIError, RateLimitError

from esft_bench.harness.judge.base import Usage
from esft_bench.harness.judge.cache import Reply
from esft_bench.harness.judge.limiter import ConcurrencyLimiter, StoppedError
from esft_bench.harness.judge.question import Messages
from esft_bench.harness.judge.reading import loads, read_completion
from esft_bench.harness.judge.secret import Secret
from esft_bench.harness.judge.transport import BoundedClient, LostAnswerError, Requests, may_be_paid
from esft_bench.spec.judge import LIMITS, OWN_URL, JudgeSettings

LONGEST_PAUSE = 600.0
"""Seconds; a server that asks for more is down as far as a run is concerned."""
LONGEST_BACKOFF = 60.0
REASON_CHARACTERS = 500
FILE_SECONDS = 600.0
"""For a batch's file, up or down."""
OPTIONAL = ("temperature", "seed", *LIMITS)
T = TypeVar("T")


class OutageError(Exception):
    """The endpoint could not be asked, retries included; the text says why and holds no key."""


class Attempts:
    """How many answers a question may still bring that have to be paid for, and how many of those were lost."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.lost = 0


class Endpoint:
    """Asks for chat completions at the pace the server bears, and waits out what passes.

    What a status refuses (a rate limit, a server's error) and what did not connect costs nothing and is tried again, as
    often as the settings allow. An answer that is lost, late or no completion may have been paid for: it uses up one of
    a question's `Attempts`. A `Retry-After` holds for all requests.
    """

    def __init__(self, settings: JudgeSettings, api_key: str) -> None:
        self.settings = settings
        self.client = AsyncOpenAI(
            api_key=api_key,
            base_url=settings.base_url or OWN_URL,  # never the environment's: the address is part of the identity
            max_retries=0,  # retries are ours, since a pause must hold for all threads
            timeout=settings.timeout,
            http_client=BoundedClient(headers={"Accept-Encoding": "gzip"}, timeout=settings.timeout),
        )
        self.limiter = ConcurrencyLimiter(settings.concurrency)
        self.refused: set[str] = set()
        self.unbelievable = 0
        self._requests = Requests()
        self._secret = Secret(api_key)

    def body(self, asked: Messages) -> dict[str, Any]:
        """The request that asks for a completion, without the optional fields that the model refuses."""
        settings = self.settings
        wanted = {"temperature": settings.temperature, "seed": settings.seed, **self._limit()}
        options = {name: value for name, value in wanted.items() if value is not None and name not in self.refused}
        return {"model": settings.model, "messages": asked, **options, **settings.options}

    def complete(self, asked: Messages, attempts: Attempts, max_cost: float) -> Reply:
        """One completion, for at most so many dollars. Raises OutageError where it cannot be had."""

        async def send() -> Reply:
            body = self.body(asked)
            more = {name: value for name, value in body.items() if name not in ("model", "messages")}
            create = self.client.chat.completions.with_raw_response.create
            answer = await create(model=body["model"], messages=body["messages"], extra_body=more)
            return self.reply(loads(answer.http_response.content), max_cost, batch=False)

        return self.call(send, attempts=attempts)

    def reply(self, body: Any, max_cost: float, *, batch: bool) -> Reply:
        """The reply in an answer's body, without the key, and what it took. Raises ValueError where it is none.

        Where the server gives no believable numbers, the tokens are 0 and the price is the most it can be.
        """
        found, rate = read_completion(body), self.settings.rate
        tokens = (found.tokens_in or 0, found.tokens_out or 0)
        dollars = rate.of(*tokens, batch=batch) if rate else 0.0
        if found.tokens_in is None or found.tokens_out is None:
            self.unbelievable += 1
            dollars = max_cost
        return Reply(self._secret.mask(found.text), Usage(1, *tokens, dollars))

    def call(
        self, send: Callable[[], Awaitable[T]], *, attempts: Attempts | None = None, seconds: float | None = None
    ) -> T:
        """What a request gives, sent again as often as the settings allow. Raises OutageError where it gives nothing.

        `send` raises OpenAIError, or ValueError where the body is not what it should be. It is given up after
        `seconds`, by default those of the settings.
        """
        retries = 0
        while True:
            with self.limiter.slot() as began:
                try:
                    answer = self._requests.within(seconds or self.settings.timeout, send)
                except CancelledError:
                    raise StoppedError from None
                except (OpenAIError, ValueError) as error:
                    caught = error
                else:
                    self.limiter.succeeded()
                    if attempts:
                        attempts.left -= 1
                    return answer
            if isinstance(caught, BadRequestError) and self.leave_out_what_is_refused(str(caught)):
                continue
            if attempts and may_be_paid(caught):
                attempts.left, attempts.lost = attempts.left - 1, attempts.lost + 1
            used_up = attempts is not None and attempts.left <= 0
            pause = self._pause(caught, retries)
            if used_up or pause is None or retries >= self.settings.retries:
                raise OutageError(self.clean(_sentence(caught))) from None
            retries += 1
            self._wait(caught, began, pause)

    def clean(self, text: str) -> str:
        """A text from outside in one line of printable characters, shortened and without the key."""
        shown = "".join(letter if letter.isprintable() else " " for letter in self._secret.mask(text[: 1 << 16]))
        return " ".join(shown.split())[:REASON_CHARACTERS]

    def leave_out_what_is_refused(self, complaint: str) -> bool:
        """Whether a refusal (status 400) names an optional field that is sent; it is not sent from then on."""
        named = {name for name in OPTIONAL if name in complaint} & self.body([]).keys() - self.settings.options.keys()
        self.refused |= named
        return bool(named)

    def close(self) -> None:
        """Stop whatever is under way, and let nothing begin."""
        self.limiter.close()
        self._requests.cancel()

    def _limit(self) -> dict[str, int]:
        """The field that bounds a reply, by the name that this endpoint takes."""
        if any(name in self.settings.options for name in LIMITS):
            return {}
        names = LIMITS if self.settings.own else LIMITS[::-1]
        taken = [name for name in names if name not in self.refused]
        return {taken[0]: self.settings.max_tokens} if taken else {}

    def _pause(self, error: Exception, retries: int) -> float | None:
        """Seconds to wait before the next attempt; None where there is no use in one."""
        backoff = min(self.settings.backoff * 2 ** min(retries, 30), LONGEST_BACKOFF) * random.uniform(0.75, 1.25)
        if isinstance(error, APIStatusError):
            passing = error.status_code in (408, 409, 429) or error.status_code >= 500
            asked = retry_after(error.response.headers)
            if not passing or error.code == "insufficient_quota" or (asked or 0) > LONGEST_PAUSE:
                return None
            return backoff if asked is None else asked
        return backoff if isinstance(error, APIConnectionError | LostAnswerError | ValueError) else None

    def _wait(self, error: Exception, began: float, pause: float) -> None:
        """Wait before the next attempt: all together where the server wants fewer requests, else this one alone."""
        asked = isinstance(error, APIStatusError) and retry_after(error.response.headers) is not None
        if isinstance(error, RateLimitError) or asked:
            self.limiter.throttled(began, pause)
            return
        if isinstance(error, LostAnswerError):
            self.limiter.throttled(began, 0.0)
        self.limiter.sleep(pause)


def _sentence(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, APIStatusError) and 300 <= error.status_code < 400:
        elsewhere = error.response.headers.get("location", "nowhere")
        return f"the endpoint redirects to {elsewhere}, and a key is not sent elsewhere: name that address as base_url"
    cause = f" ({error.__cause__})" if isinstance(error, APIConnectionError) and error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}"


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, 10.2.3: a number or a date; some send milliseconds)."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, OverflowError, OSError):
        return None
