"""How many requests are under way: additive increase, multiplicative decrease (Chiu and Jain 1989), as in TCP."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

START = 4
"""Requests under way at first."""


class StoppedError(Exception):
    """The judging was stopped from outside."""


class ConcurrencyLimiter:
    """Lets requests begin, one slot each, over all threads.

    Each success raises the limit by 1 / limit, so by about one while as many requests as the limit come back;
    throttling (a rate limit, a timeout) halves it, once for all requests that were under way together. A pause that
    the server asks for holds for all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(min(most, START))
        self._under_way = 0
        self._resume = self._cut = time.monotonic()
        self._closed = False
        self._changed = threading.Condition()

    @property
    def limit(self) -> float:
        """How many requests may be under way now, its whole part."""
        return self._limit

    @contextmanager
    def slot(self) -> Iterator[float]:
        """Wait for a slot and hold it; gives the time at which it began."""
        with self._changed:
            while self._under_way >= int(self._limit) or time.monotonic() < self._resume or self._closed:
                if self._closed:
                    raise StoppedError
                pause = self._resume - time.monotonic()
                self._changed.wait(pause if pause > 0 else None)
            self._under_way += 1
        try:
            yield time.monotonic()
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def succeeded(self) -> None:
        """A request was answered."""
        with self._changed:
            self._limit = min(self._most, self._limit + 1 / self._limit)
            self._changed.notify_all()

    def throttled(self, began: float, pause: float) -> None:
        """A request that began then was too much: fewer at a time, and none at all for `pause` seconds."""
        with self._changed:
            now = time.monotonic()
            self._resume = max(self._resume, now + pause)
            if began >= self._cut:
                self._limit, self._cut = max(1.0, self._limit / 2), now

    def sleep(self, seconds: float) -> None:
        """Wait so long, without a slot. Raises StoppedError where all is stopped meanwhile."""
        end = time.monotonic() + seconds
        with self._changed:
            while not self._closed and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._closed:
                raise StoppedError

    def close(self) -> None:
        """Give no more slots, and wake all that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
