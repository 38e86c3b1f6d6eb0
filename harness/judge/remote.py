"""A judge behind an OpenAI-compatible endpoint."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from openai import OpenAI, OpenAIError

from harness.judge.base import JudgeItem, JudgeSettings, Verdict
from harness.judge.cache import ReplyCache
from harness.judge.question import Messages, Reply, again, key, messages, read
from tasks.task import Rubric, Task

PATIENCE = 3
"""After so many outages in a row, retries included, the rest of the items is not asked."""
REASON_CHARACTERS = 500


class OpenAIJudge:
    """Asks a model for a score on the task's rubric, item by item, and remembers every readable reply.

    An unreadable reply is asked for once more, then the item is `unscored`; an outage that outlasts the client's
    retries leaves it `failed`.
    """

    def __init__(self, settings: JudgeSettings, api_key: str, cache: ReplyCache) -> None:
        self.name = settings.model
        self._settings = settings
        self._api_key = api_key
        self._cache = cache
        self._client = OpenAI(
            api_key=api_key, base_url=settings.base_url, max_retries=settings.retries, timeout=settings.timeout
        )

    def score(self, task: Task, items: Sequence[JudgeItem]) -> list[Verdict]:
        """One verdict for each item, in order; equal items are asked once."""
        if task.rubric is None:
            raise ValueError(f"task {task.name} has no rubric to judge by")
        rubric, outages = task.rubric, _Outages()
        keys = [key(self.name, rubric, item) for item in items]
        distinct = dict(zip(keys, items, strict=True))
        with ThreadPoolExecutor(self._settings.concurrency) as pool:
            verdicts = pool.map(lambda name: self._verdict(name, distinct[name], rubric, outages), distinct)
            found = dict(zip(distinct, verdicts, strict=True))
        paid = {name: place for place, name in reversed(list(enumerate(keys)))}
        return [
            found[name] if place == paid[name] else replace(found[name], tokens=0) for place, name in enumerate(keys)
        ]

    def _verdict(self, name: str, item: JudgeItem, rubric: Rubric, outages: "_Outages") -> Verdict:
        """The stored reply's verdict, or the judge's."""
        stored = self._cache.get(name)
        if stored is not None:
            return _scored(Reply.model_validate_json(stored), rubric, 0)
        if outages.too_many():
            return Verdict(None, "failed", f"not asked: the judge failed {PATIENCE} times in a row")
        try:
            reply, said, tokens = self._ask(rubric, item)
        except (OpenAIError, ValueError) as error:  # the client lets a broken body through as a ValueError
            outages.count(True)
            return Verdict(None, "failed", self._without_key(f"{type(error).__name__}: {error}"))
        outages.count(False)
        if reply is None:
            return Verdict(None, "unscored", f"unreadable reply: {said[:REASON_CHARACTERS]}", tokens)
        self._cache.put(name, reply.model_dump_json())
        return _scored(reply, rubric, tokens)

    def _ask(self, rubric: Rubric, item: JudgeItem) -> tuple[Reply | None, str, int]:
        """Ask, and once more if the reply cannot be read: (the reply if readable, its text, tokens spent)."""
        asked = messages(rubric, item)
        said, tokens = self._complete(asked)
        reply = read(said, rubric)
        if reply is None:
            said, more = self._complete(again(asked, said, rubric))
            reply, tokens = read(said, rubric), tokens + more
        return reply, said, tokens

    def _complete(self, asked: Messages) -> tuple[str, int]:
        """One request: (the text that came back, tokens spent). Raises OpenAIError or ValueError on an outage."""
        wanted = {"temperature": self._settings.temperature, "seed": self._settings.seed}
        options = {name: value for name, value in wanted.items() if value is not None}
        got = self._client.chat.completions.create(model=self.name, messages=asked, **options)  # type: ignore[call-overload]
        return _text(got), _tokens(got)

    def _without_key(self, text: str) -> str:
        return " ".join(text.replace(self._api_key, "***").split())[:REASON_CHARACTERS]


class _Outages:
    """Counts outages in a row over all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._row = 0

    def count(self, outage: bool) -> None:
        with self._lock:
            self._row = self._row + 1 if outage else 0

    def too_many(self) -> bool:
        return self._row >= PATIENCE


def _text(completion: object) -> str:
    """The text of a chat completion, empty where a server sent something else."""
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    content = getattr(message, "content", None)
    return content if isinstance(content, str) else ""


def _tokens(completion: object) -> int:
    """The tokens a chat completion says it cost, 0 where it does not say."""
    total = getattr(getattr(completion, "usage", None), "total_tokens", None)
    return total if isinstance(total, int) else 0


def _scored(reply: Reply, rubric: Rubric, tokens: int) -> Verdict:
    return Verdict(reply.score / rubric.best, "scored", reply.reason[:REASON_CHARACTERS], tokens)
