"""A judge behind an OpenAI-compatible endpoint."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from esft_bench.harness.judge.base import JudgeItem, Usage, Verdict
from esft_bench.harness.judge.batch import Batches
from esft_bench.harness.judge.cache import Reply, ReplyCache
from esft_bench.harness.judge.endpoint import Attempts, Endpoint, OutageError
from esft_bench.harness.judge.prices import Budget, BudgetSpentError, token_bounds
from esft_bench.harness.judge.question import Question, key, parse
from esft_bench.spec.judge import LIMITS, JudgeSettings
from esft_bench.tasks.task import Rubric

MOST_OUTAGES = 3
"""After so many outages in a row, retries included, the rest of the items is not asked."""
ATTEMPTS = 2
"""A reply that cannot be read, or an answer that is no reply, is asked for once more. More are not paid for."""
ROUNDS = 4
"""Batches sent one after another, for what could not be read, failed or had to wait for the budget."""


class OpenAIJudge:
    """Asks a model for a score on the task's rubric, item by item, and stores every reply at once.

    A reply that cannot be read is asked for once more, then the item is `unscored`; an outage that outlasts the
    retries, or a spent budget, leaves it `failed`. `account` names the run that pays.
    """

    def __init__(self, settings: JudgeSettings, api_key: str, cache: ReplyCache, account: str) -> None:
        self.name = settings.model
        self.identity = settings.identity
        self._settings = settings
        self._cache = cache
        self._account = account
        self._endpoint = Endpoint(settings, api_key)
        self._budget = Budget(settings.budget, cache.spent(account))
        self._batches = Batches(self._endpoint, cache, self._budget, account, ATTEMPTS)
        self._outages = _Outages()

    @property
    def notes(self) -> list[str]:
        """What the report must say about how it judged."""
        refused = self._endpoint.refused
        names = sorted(refused - set(LIMITS)) + (["max_tokens"] if refused >= set(LIMITS) else [])
        notes = [f"{self.name} refuses a set {name}: it judged with its own default." for name in names]
        if self._endpoint.unbelievable:
            notes.append(
                f"{self.name} gave no believable token counts for {self._endpoint.unbelievable} replies: they count as "
                "no tokens, and as the most dollars that they can cost."
            )
        if self._budget.refused:
            left = "the answers it has not seen count as missing, never as 0"
            notes.append(f"The judge's budget of ${self._budget.limit:g} is spent: {left}.")
        return notes

    def announce(self, rubric: Rubric, items: Sequence[JudgeItem]) -> None:
        """Send off, as a batch, the items that have no reply yet, where the judge works in batches."""
        if self._settings.batch:
            self._batches.submit(self._questions(rubric, items).values(), self._is_open)

    def score(self, rubric: Rubric, items: Sequence[JudgeItem]) -> list[Verdict]:
        """One verdict for each item, in order; equal items are asked once, and the first of them has the usage."""
        self._outages.forget()
        questions = self._questions(rubric, items)
        reasons = self._by_batch(questions)
        if self._settings.batch:
            found = {
                name: self._stored(question) or Verdict(None, "failed", reasons.get(name, "the batch holds no reply"))
                for name, question in questions.items()
            }
        else:
            found = self._one_by_one(questions)
        keys = [key(self.identity, rubric, item) for item in items]
        first = {name: place for place, name in reversed(list(enumerate(keys)))}
        return [
            found[name] if place == first[name] else replace(found[name], usage=Usage())
            for place, name in enumerate(keys)
        ]

    def close(self) -> None:
        """End what waits, in any thread."""
        self._endpoint.close()

    def _questions(self, rubric: Rubric, items: Sequence[JudgeItem]) -> dict[str, Question]:
        """The distinct questions, by key."""
        keyed = {key(self.identity, rubric, item): item for item in items}
        return {name: Question(name, rubric, item) for name, item in keyed.items()}

    def _by_batch(self, questions: Mapping[str, Question]) -> dict[str, str]:
        """Fetch what waits in batches, and send what has no reply where the judge works in batches.

        Returns, by key, why an item has none after that.
        """
        reasons = self._batches.collect(questions)
        for _ in range(ROUNDS if self._settings.batch else 0):
            wanted = [question for question in questions.values() if self._is_open(question)]
            if not wanted:
                break
            reasons = self._batches.submit(wanted, self._is_open)
            if len(reasons) == len(wanted):
                break
            reasons |= self._batches.collect(questions)
        return reasons

    def _one_by_one(self, questions: Mapping[str, Question]) -> dict[str, Verdict]:
        """The verdicts by key, each asked for by itself where there is none yet."""
        with ThreadPoolExecutor(self._settings.concurrency) as pool:
            try:
                return dict(zip(questions, pool.map(self._verdict, questions.values()), strict=True))
            except (KeyboardInterrupt, SystemExit):  # the run ends: nobody waits for an answer or out a pause
                self._endpoint.close()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _is_open(self, question: Question) -> bool:
        """Whether a question wants a reply, and may have one."""
        return self._stored(question) is None and self._batches.may_send(question.key)

    def _verdict(self, question: Question) -> Verdict:
        """The stored replies' verdict, or the judge's."""
        if (stored := self._stored(question)) is not None:
            return stored
        with self._cache.lock(question.key):
            attempts = Attempts(ATTEMPTS - len(self._cache.replies(question.key)))
            while (verdict := self._stored(question)) is None:
                if attempts.left <= 0:
                    return Verdict(None, "failed", f"the judge gave no readable answer in {ATTEMPTS} attempts")
                if self._outages.too_many():
                    return Verdict(None, "failed", f"not asked: the judge failed {MOST_OUTAGES} times in a row")
                try:
                    self._ask(question, attempts)
                except OutageError as error:
                    self._outages.count(True)
                    return Verdict(None, "failed", str(error))
                except BudgetSpentError as error:
                    return Verdict(None, "failed", str(error))
                self._outages.count(False)
        return verdict

    def _ask(self, question: Question, attempts: Attempts) -> None:
        """Get the next reply and store it."""
        before = [reply.text for reply in self._cache.replies(question.key)]
        conversation, rate = question.conversation(before), self._settings.rate
        most = rate.of(*token_bounds(conversation, self._settings.output_limit), batch=False) if rate else 0.0
        with self._budget.hold(most):
            lost = attempts.lost
            try:
                reply = self._endpoint.complete(conversation, attempts, most)
            finally:
                self._pay_lost(most * (attempts.lost - lost))
            self._cache.put(question.key, len(before), reply, self._account)
            self._budget.pay(reply.usage.dollars)

    def _pay_lost(self, dollars: float) -> None:
        """Count against the budget what answers may have cost that did not arrive."""
        if dollars:
            self._cache.put_lost(dollars, self._account)
            self._budget.pay(dollars)

    def _stored(self, question: Question) -> Verdict | None:
        """The verdict that the stored replies give; None where there is still one to be asked for."""
        return _judged(self._cache.replies(question.key), question.rubric, self._endpoint)


def _judged(replies: Sequence[Reply], rubric: Rubric, endpoint: Endpoint) -> Verdict | None:
    """The last reply's verdict; None where it cannot be read and may be asked for again."""
    usage = sum((reply.usage for reply in replies), Usage())
    parsed = parse(replies[-1].text, rubric) if replies else None
    if parsed is not None:
        return Verdict(parsed.score / rubric.best, "scored", endpoint.clean(parsed.reason), usage)
    if len(replies) < ATTEMPTS:
        return None
    return Verdict(None, "unscored", endpoint.clean(f"unreadable reply: {replies[-1].text}"), usage)


class _Outages:
    """Counts outages in a row over all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._row = 0

    def count(self, outage: bool) -> None:
        with self._lock:
            self._row = self._row + 1 if outage else 0

    def forget(self) -> None:
        """Begin anew: what was down may be up again; one more outage says that it is not."""
        with self._lock:
            self._row = min(self._row, MOST_OUTAGES - 1)

    def too_many(self) -> bool:
        return self._row >= MOST_OUTAGES
