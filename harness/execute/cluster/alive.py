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
    """Asks which nodes are alive, in a thread of its own: Ray has no limit to the time that it waits for its head."""

    def __init__(self, nodes: Callable[[], Sequence[Node]], answers: float) -> None:
        self._ask, self._answers = nodes, answers
        self._nodes, self._heard = nodes(), time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._go_on, daemon=True).start()

    def _go_on(self) -> None:
        while not self._over.wait(LOOKS):
            with suppress(Exception):  # whatever it is: who has no answer in time gives up
                self._nodes = self._ask()
                self._heard = time.monotonic()

    @property
    def nodes(self) -> Sequence[Node]:
        """Those that were alive a moment ago. Raises HeadLostError where there was no answer for too long."""
        if self.lost:
            raise HeadLostError(
                f"The Ray cluster's head has not answered for {self._answers:.0f} seconds: see that it runs, or start "
                "the cluster again; the same command goes on with what is finished."
            )
        return self._nodes

    @property
    def lost(self) -> bool:
        """Whether the head is gone."""
        return time.monotonic() - self._heard > self._answers

    def close(self) -> None:
        """Ask no more."""
        self._over.set()
