"""Which nodes are alive, as the cluster's head says; where it is gone, nobody says anything any more."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from esft_bench.harness.execute.cluster.room import Node
from esft_bench.spec.errors import UserError

LOOKS = 1.0
"""Seconds between two questions."""


class HeadLostError(UserError):
    """The cluster's head is gone, or out of reach: nothing can be asked of Ray any more."""


class Alive:
    """Asks which nodes are alive, in a thread of its own: Ray has no limit to the time that it waits for its head.

    Attributes:
        asked: when the last question was put that was answered, by the monotonic clock.
    """

    def __init__(self, nodes: Callable[[], Sequence[Node]], answers: float) -> None:
        self._ask, self._answers = nodes, answers
        self._nodes = nodes()
        self.asked = self._looked = time.monotonic()
        self._silence = 0.0
        self._over = threading.Event()
        threading.Thread(target=self._go_on, daemon=True).start()

    def _go_on(self) -> None:
        while not self._over.wait(LOOKS):
            asked = time.monotonic()
            with suppress(Exception):  # whatever it is: who has no answer in time gives up
                self._nodes = self._ask()
                self.asked, self._silence = asked, 0.0

    @property
    def nodes(self) -> Sequence[Node]:
        """Those that were alive a moment ago. Raises HeadLostError where there was no answer for too long.

        Time in which nobody looked does not count: this process may have slept.
        """
        now = time.monotonic()
        self._silence += min(now - self._looked, LOOKS)
        self._looked = now
        if self.lost:
            raise HeadLostError(
                f"The Ray cluster's head has not answered for {self._answers:.0f} seconds: see that it runs, or start "
                "the cluster again; the same command goes on with what is finished."
            )
        return self._nodes

    @property
    def lost(self) -> bool:
        """Whether the head is gone."""
        return self._silence > self._answers

    def close(self) -> None:
        """Ask no more."""
        self._over.set()
