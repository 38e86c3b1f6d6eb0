"""Judging by batches: requests go up as one file, and the replies come back within a day at a lower price.

    upload the requests → create the batch → note what waits in it → look until it has ended → store its replies

Whichever of these a kill falls between, the next run finds the batch again: by its name in the cache, or, where it was
created and not yet noted, by the mark it carries at the server.
"""

import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from openai import APIStatusError, NotFoundError
from openai.types import Batch, FileObject
from pydantic import BaseModel, ConfigDict, ValidationError

from esft_bench.harness.judge.cache import Pending, ReplyCache
from esft_bench.harness.judge.endpoint import Endpoint, OutageError, read_completion
from esft_bench.harness.judge.prices import Budget, most_tokens
from esft_bench.harness.judge.question import Messages, Question

Kind = TypeVar("Kind")
URL: Any = "/v1/chat/completions"
WINDOW: Any = "24h"
MARK = "esft_bench"
"""Name of the batch's metadata that says which requests it holds."""
ENDED = ("completed", "failed", "expired", "cancelled")
USELESS = ("failed", "expired", "cancelled", "cancelling")
MOST_REQUESTS = 10_000
"""In one batch; OpenAI allows 50 000 and 200 MB."""


class _Answer(BaseModel):
    """The `response` of a line."""

    model_config = ConfigDict(extra="ignore")
    status_code: int
    body: Any = None


class _Line(BaseModel):
    """A line of a batch's output or error file."""

    model_config = ConfigDict(extra="ignore")
    custom_id: str
    response: _Answer | None = None
    error: Any = None


class _Listed(BaseModel):
    """A batch in the server's list."""

    model_config = ConfigDict(extra="ignore")
    id: str
    status: str
    metadata: dict[str, Any] | None = None


class _List(BaseModel):
    """The server's list of batches."""

    model_config = ConfigDict(extra="ignore")
    data: list[_Listed]


class Batches:
    """Sends questions as batches and stores the replies that come back."""

    def __init__(self, endpoint: Endpoint, cache: ReplyCache, budget: Budget, account: str) -> None:
        self._endpoint = endpoint
        self._client = endpoint.client
        self._cache = cache
        self._budget = budget
        self._account = account

    def submit(self, questions: Iterable[Question], is_open: Callable[[Question], bool]) -> dict[str, str]:
        """Send off the questions that are open and wait in no batch yet; returns, by key, why one was not sent."""
        why: dict[str, str] = {}
        with self._cache.asking("batch"):  # two processes must not send the same
            waiting = [request for requests in self._cache.waiting().values() for request in requests]
            sent = {request.key for request in waiting}
            committed = sum(request.most for request in waiting if request.account == self._account)
            chosen: list[tuple[Pending, Messages]] = []
            for question in questions:
                if question.key in sent or not is_open(question):
                    continue
                request, conversation = self._request(question)
                if self._budget.room(committed + request.most):
                    committed += request.most
                    chosen.append((request, conversation))
                else:
                    why[question.key] = self._budget.sentence
            for start in range(0, len(chosen), MOST_REQUESTS):
                part = chosen[start : start + MOST_REQUESTS]
                try:
                    self._send(part)
                except OutageError as error:
                    why |= {request.key: str(error) for request, _ in part}
        return why

    def collect(self, keys: Collection[str]) -> dict[str, str]:
        """Wait for the batches that any of these questions waits in, and store their replies.

        Returns, by key, why a request came to nothing.
        """
        why: dict[str, str] = {}
        for batch, requests in self._cache.waiting().items():
            if any(request.key in keys for request in requests):
                why |= self._fetch(batch, {request.id: request for request in requests})
        return why

    def _request(self, question: Question) -> tuple[Pending, Messages]:
        """What to send next for a question, and the most it may cost."""
        replies = [said.text for said in self._cache.said(question.key)]
        conversation, rate = question.conversation(replies), self._endpoint.settings.rate
        most = rate.of(*most_tokens(conversation), batch=True) if rate else 0.0
        name = f"{question.key[:48]}-{len(replies)}"
        return Pending(name, question.key, len(replies), most, self._account), conversation

    def _send(self, part: Sequence[tuple[Pending, Messages]]) -> None:
        """Create one batch, or find the one that a killed run created, and note what waits in it."""
        requests = [request for request, _ in part]
        mark = hashlib.sha256("\n".join(sorted(request.id for request in requests)).encode()).hexdigest()
        name = self._endpoint.call(lambda: self._find(mark) or self._create(part, mark))
        self._cache.wait_in(name, requests)

    def _find(self, mark: str) -> str | None:
        """A batch at the server that holds just these requests and was not fetched before."""
        try:
            answer = self._client.batches.with_raw_response.list(limit=100)
        except APIStatusError as error:
            if error.status_code in (404, 405, 501):  # an endpoint that has batches and cannot list them
                return None
            raise
        recent = _List.model_validate_json(answer.http_response.content).data
        found = (
            batch.id for batch in recent if (batch.metadata or {}).get(MARK) == mark and batch.status not in USELESS
        )
        return next((name for name in found if not self._cache.forgotten(name)), None)

    def _create(self, part: Sequence[tuple[Pending, Messages]], mark: str) -> str:
        lines = [
            {"custom_id": request.id, "method": "POST", "url": URL, "body": self._endpoint.body(conversation)}
            for request, conversation in part
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        file = self._client.files.create(file=("judge.jsonl", io.BytesIO(text.encode())), purpose="batch")
        name = _is(FileObject, file).id
        made = self._client.batches.create(
            input_file_id=name, endpoint=URL, completion_window=WINDOW, metadata={MARK: mark}
        )
        return _is(Batch, made).id

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
        problem = batch.errors.data[0].message if batch.errors and batch.errors.data else None
        otherwise = self._endpoint.clean(f"the batch is {batch.status}: {problem or 'it holds no reply'}")
        why = {request.key: otherwise for request in requests.values()}
        for line in "\n".join(texts).splitlines():
            found = _read(line)
            request = requests.get(found.custom_id) if found else None
            if found is None or request is None:
                continue
            complaint = self._store(request, found)
            if complaint:
                why[request.key] = complaint
            else:
                why.pop(request.key, None)
        self._cache.forget(name)
        return why

    def _ended(self, name: str) -> Batch | None:
        """The batch once it has ended; None where the server does not know it."""

        def retrieve() -> Batch | None:
            try:
                return _is(Batch, self._client.batches.retrieve(name))
            except NotFoundError:
                return None

        while (batch := self._endpoint.call(retrieve)) is not None and batch.status not in ENDED:
            self._endpoint.pace.sleep(self._endpoint.settings.poll)
        return batch

    def _file(self, name: str) -> str:
        return self._endpoint.call(lambda: self._client.files.content(name).text)

    def _store(self, request: Pending, line: _Line) -> str:
        """Store a line's reply; returns why there is none, or nothing."""
        answer = line.response
        if answer is None or answer.status_code != 200:
            problem = json.dumps(answer.body if answer else line.error, ensure_ascii=False)
            if answer and answer.status_code == 400:
                self._endpoint.leave_out_what_is_refused(problem)
            return self._endpoint.clean(f"in the batch: {problem}")
        try:
            said = read_completion(json.dumps(answer.body)).said(self._endpoint.settings, batch=True)
        except ValueError as error:
            return self._endpoint.clean(f"in the batch: {error}")
        if self._cache.put(request.key, request.attempt, said, self._account):
            self._budget.pay(said.usage.dollars)
        return ""


def _is(kind: type[Kind], answer: object) -> Kind:
    """The answer, if it is what was asked for: the client lets other bodies through. Raises ValueError if not."""
    if not isinstance(answer, kind) or not getattr(answer, "id", None):
        raise ValueError(f"the endpoint answered with no {kind.__name__.lower()}: it may have no batches")
    return answer


def _read(text: str) -> _Line | None:
    try:
        return _Line.model_validate_json(text)
    except ValidationError:
        return None
