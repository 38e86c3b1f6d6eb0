"""What judges cost, and a budget that is not overdrawn."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

OUTPUT_TOKENS = 1000
"""What an estimate takes a reply to need: a sentence and a number, and some thinking."""


def token_bounds(messages: list[dict[str, str]], output: int) -> tuple[int, int]:
    """The most tokens that a request can have (a token is at least a byte) and its reply, which is cut at `output`."""
    return sum(len(message["content"].encode(errors="replace")) + 16 for message in messages), output


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
