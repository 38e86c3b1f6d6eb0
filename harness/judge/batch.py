"""Judging by batches: requests go up as one file, and the replies come back within a day at a lower price.

    upload the requests → create the batch → note what waits in it → look until it has ended → store its replies

Whichever of these a kill falls between, the next run finds the batch again: by its name in the cache, or, where it was
created and not yet noted, by the mark it carries at the server.
"""

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from openai import APIStatusError, NotFoundError
from pydantic import BaseModel, ConfigDict, Field

from esft_bench.harness.judge.cache import Pending, ReplyCache
from esft_bench.harness.judge.endpoint import FILE_SECONDS, Endpoint, OutageError
from esft_bench.harness.judge.prices import Budget, token_bounds
from esft_bench.harness.judge.question import Messages, Question
from esft_bench.harness.judge.reading import loads

Kind = TypeVar("Kind", bound=BaseModel)
URL: Any = "/v1/chat/completions"
WINDOW: Any = "24h"
MARK = "esft_bench"
"""Name of the batch's metadata that says which requests it holds."""
ENDED = ("completed", "failed", "expired", "cancelled")
USELESS = ("failed", "expired", "cancelled", "cancelling")
LONGEST_WAIT = 26 * 3600.0
"""Seconds to wait for a batch; its window is a day."""
MOST_REQUESTS = 10_000
"""In one batch; OpenAI allows 50 000 and 200 MB."""


class _Loose(BaseModel):
    """Parts of an answer that are read; the rest may be anything."""

    model_config = ConfigDict(extra="ignore")


class _Answer(_Loose):
    """The `response` of a line."""

    status_code: int
    body: Any = None


class _Line(_Loose):
    """A line of a batch's output or error file."""

    custom_id: str
    response: _Answer | None = None
    error: Any = None


class _File(_Loose):
    """A file at the server."""

    id: str = Field(min_length=1)


class _Batch(_File):
    """A batch at the server."""

    status: str = ""
    metadata: Any = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: Any = None


class _List(_Loose):
    """The server's list of batches."""

    data: list[_Batch]


class Batches:
    """Sends questions as batches and stores the replies that come back."""

    def __init__(self, endpoint: Endpoint, cache: ReplyCache, budget: Budget, account: str, attempts: int) -> None:
        self._endpoint = endpoint
        self._client = endpoint.client
        self._cache = cache
        self._budget = budget
        self._account = account
        self._attempts = attempts
        self._lost: Counter[str] = Counter()

    def may_send(self, key: str) -> bool:
        """Whether a question's answers have not been lost as often as they are paid for."""
        return self._lost[key] < self._attempts

    def submit(self, questions: Iterable[Question], is_open: Callable[[Question], bool]) -> dict[str, str]:
        """Send off the questions that are open and wait in no batch yet; returns, by key, why one was not sent."""
        reasons: dict[str, str] = {}
        with self._cache.lock("batch"):  # two processes must not send the same
            waiting = [request for requests in self._cache.pending().values() for request in requests]
            sent = {request.key for request in waiting}
            committed = sum(request.max_cost for request in waiting if request.account == self._account)
            chosen: list[tuple[Pending, Messages]] = []
            for question in questions:
                if question.key in sent or not is_open(question):
                    continue
                request, conversation = self._request(question)
                if self._budget.room(committed + request.max_cost):
                    committed += request.max_cost
                    chosen.append((request, conversation))
                else:
                    reasons[question.key] = self._budget.sentence
            for start in range(0, len(chosen), MOST_REQUESTS):
                part = chosen[start : start + MOST_REQUESTS]
                try:
                    self._send(part)
                except OutageError as error:
                    reasons |= {request.key: str(error) for request, _ in part}
        return reasons

    def collect(self, keys: Collection[str]) -> dict[str, str]:
        """Wait for the batches that any of these questions waits in, and store their replies.

        Returns, by key, why a request came to nothing.
        """
        reasons: dict[str, str] = {}
        for batch, requests in self._cache.pending().items():
            if any(request.key in keys for request in requests):
                reasons |= self._fetch(batch, {request.id: request for request in requests})
        return reasons

    def _request(self, question: Question) -> tuple[Pending, Messages]:
        """What to send next for a question, and the most it may cost."""
        replies = [reply.text for reply in self._cache.replies(question.key)]
        conversation, rate = question.conversation(replies), self._endpoint.settings.rate
        most = rate.of(*token_bounds(conversation, self._endpoint.settings.output_limit), batch=True) if rate else 0.0
        name = f"{question.key[:48]}-{len(replies)}"
        return Pending(name, question.key, len(replies), most, self._account), conversation

    def _send(self, part: Sequence[tuple[Pending, Messages]]) -> None:
        """Create one batch, or find the one that a killed run created, and note what waits in it."""
        requests = [request for request, _ in part]
        mark = hashlib.sha256("\n".join(sorted(request.id for request in requests)).encode()).hexdigest()

        async def find_or_create() -> str:
            return await self._find(mark) or await self._create(part, mark)

        self._cache.add_pending(self._endpoint.call(find_or_create, seconds=FILE_SECONDS), requests)

    async def _find(self, mark: str) -> str | None:
        """A batch at the server that holds just these requests and was not fetched before."""
        try:
            answer = await self._client.batches.with_raw_response.list(limit=100)
        except APIStatusError as error:
            if error.status_code in (404, 405, 501):  # an endpoint that has batches and cannot list them
                return None
            raise
        recent = _as(_List, answer).data
        marked = [batch for batch in recent if isinstance(batch.metadata, dict) and batch.metadata.get(MARK) == mark]
        names = (batch.id for batch in marked if batch.status not in USELESS)
        return next((name for name in names if not self._cache.forgotten(name)), None)

    async def _create(self, part: Sequence[tuple[Pending, Messages]], mark: str) -> str:
        lines = [
            {"custom_id": request.id, "method": "POST", "url": URL, "body": self._endpoint.body(conversation)}
            for request, conversation in part
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        upload = ("judge.jsonl", io.BytesIO(text.encode()))
        file = _as(_File, await self._client.files.with_raw_response.create(file=upload, purpose="batch"))
        create = self._client.batches.with_raw_response.create
        made = await create(input_file_id=file.id, endpoint=URL, completion_window=WINDOW, metadata={MARK: mark})
        return _as(_Batch, made).id

    def _fetch(self, name: str, requests: dict[str, Pending]) -> dict[str, str]:
        """Wait for a batch to end and store its replies; returns, by key, why a request came to nothing."""
        try:
            batch = self._ended(name)
            if batch is None:
                self._cache.forget(name)
                return dict.fromkeys((r.key for r in requests.values()), "the server does not know the batch any more")
            texts = [self._file(file) for file in (batch.output_file_id, batch.error_file_id) if file]
        except OutageError as error:
            return {request.key: str(error) for request in requests.values()}
        problem = json.dumps(batch.errors, ensure_ascii=False) if batch.errors else "it holds no reply"
        otherwise = self._endpoint.clean(f"the batch is {batch.status}: {problem}")
        reasons = {request.key: otherwise for request in requests.values()}
        for line in "\n".join(texts).split("\n"):  # not splitlines: JSON may hold other line ends
            found = _read(line)
            request = requests.get(found.custom_id) if found else None
            if found is None or request is None:
                continue
            complaint = self._store(request, found)
            if complaint:
                reasons[request.key] = complaint
            else:
                reasons.pop(request.key, None)
        self._cache.forget(name)
        return reasons

    def _ended(self, name: str) -> _Batch | None:
        """The batch once it has ended; None where the server does not know it. Raises OutageError if it never does."""

        async def retrieve() -> _Batch | None:
            try:
                return _as(_Batch, await self._client.batches.with_raw_response.retrieve(name))
            except NotFoundError:
                return None

        until = time.monotonic() + LONGEST_WAIT
        while (batch := self._endpoint.call(retrieve)) is not None and batch.status not in ENDED:
            if time.monotonic() > until:
                raise OutageError(f"the batch has not ended in {LONGEST_WAIT / 3600:.0f} hours")
            self._endpoint.limiter.sleep(self._endpoint.settings.poll)
        return batch

    def _file(self, name: str) -> str:
        async def fetch() -> str:
            return (await self._client.files.content(name)).read().decode(errors="replace")

        return self._endpoint.call(fetch, seconds=FILE_SECONDS)

    def _store(self, request: Pending, line: _Line) -> str:
        """Store a line's reply; returns why there is none, or nothing."""
        answer = line.response
        if answer is None or answer.status_code != 200:
            problem = json.dumps(answer.body if answer else line.error, ensure_ascii=False)
            if answer and answer.status_code == 400:
                self._endpoint.leave_out_what_is_refused(problem)
            return self._endpoint.clean(f"in the batch: {problem}")
        try:
            reply = self._endpoint.reply(answer.body, request.max_cost, batch=True)
        except ValueError as error:
            self._lost[request.key] += 1
            self._cache.put_lost(request.max_cost, self._account)
            self._budget.pay(request.max_cost)
            return self._endpoint.clean(f"in the batch: {error}")
        if self._cache.put(request.key, request.attempt, reply, self._account):
            self._budget.pay(reply.usage.dollars)
        return ""


def _as(kind: type[Kind], answer: Any) -> Kind:
    """What an answer holds. Raises ValueError, in a sentence, where it is something else."""
    try:
        return kind.model_validate(loads(answer.http_response.content))
    except ValueError:
        name = kind.__name__.strip("_").lower()
        raise ValueError(f"the endpoint answered with no {name}: it may have no batches") from None


def _read(text: str) -> _Line | None:
    try:
        return _Line.model_validate(loads(text))
    except ValueError:
        return None
