"""What judges cost, and a budget that is not overdrawn."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat


class Price(BaseModel):
    """Dollars for a million tokens, read (`input`) and written (`output`); `batch` is a batch's share of that price."""

    model_config = ConfigDict(frozen=True, extra="forbid")
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
OWN_HOST = "api.openai.com"
OUTPUT_TOKENS = 1000
"""What a reply is taken to need at most before it is there: a sentence and a number, and some thinking."""


def price_of(model: str, base_url: str | None) -> Price | None:
    """The list price of a model; None where it is not known."""
    own = base_url is None or urlsplit(base_url).hostname == OWN_HOST
    return PRICES.get(model) if own else None


def most_tokens(messages: list[dict[str, str]]) -> tuple[int, int]:
    """An upper bound of the tokens of a request (a token is at least a byte) and a guess of those of its reply."""
    return sum(len(message["content"].encode()) + 16 for message in messages), OUTPUT_TOKENS


class BudgetSpentError(Exception):
    """The budget has no room for another request."""


class Budget:
    """Dollars that may be spent, shared by all threads.

    A request first holds the most it may cost, so that those under way cannot overdraw the budget together; when its
    reply is there, what it did cost takes the place of that. While others hold too much it waits for them. `refused`
    says whether there was no room for some request.
    """

    def __init__(self, limit: float | None, spent: float) -> None:
        self.limit = limit
        self.refused = False
        self._spent = spent
        self._held: dict[int, float] = {}
        self._changed = threading.Condition()

    @property
    def sentence(self) -> str:
        """Why something was not asked."""
        return f"budget: ${self._spent:.4f} of ${self.limit or 0:g} are spent; with more the same command goes on"

    @contextmanager
    def hold(self, dollars: float) -> Iterator[None]:
        """Hold so much while a request is under way. Raises BudgetSpentError where there is no room."""
        mine = threading.get_ident()
        with self._changed:
            while self.limit is not None and self._spent + sum(self._held.values()) + dollars > self.limit:
                if not self._held:
                    self.refused = True
                    raise BudgetSpentError(self.sentence)
                self._changed.wait()
            self._held[mine] = dollars
        try:
            yield
        finally:
            with self._changed:
                del self._held[mine]
                self._changed.notify_all()

    def room(self, committed: float) -> bool:
        """Whether so much, all told, can still be spent."""
        with self._changed:
            fits = self.limit is None or self._spent + committed <= self.limit
            self.refused |= not fits
            return fits

    def pay(self, dollars: float) -> None:
        """Note what a reply did cost."""
        with self._changed:
            self._spent += dollars
