"""Which nodes are alive, as the cluster's head says; where it is gone, nobody says anything any more."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from esft_bench.harness.execute.cluster.fence import OVER
from esft_bench.harness.execute.cluster.room import Node
from esft_bench.harness.terminal import complain
from esft_bench.spec.errors import UserError

LOOKS = 1.0
"""Seconds between two questions."""
HEARD_WITHIN = 10.0
"""Seconds in which the run must have heard that the head is lost, or else it waits for that itself."""


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
        self.asked = time.monotonic()
        self._silence = 0.0
        self._over = threading.Event()
        for work in (self._go_on, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def _go_on(self) -> None:
        while not self._over.wait(LOOKS):
            asked = time.monotonic()
            with suppress(Exception):  # whatever it is: who has no answer in time gives up
                self._nodes = self._ask()
                self.asked, self._silence = asked, 0.0

    def _watch(self) -> None:
        """Count the seconds without an answer; end this process where the run itself waits for the head, in vain."""
        before = time.monotonic()
        while not self._over.wait(LOOKS):
            now = time.monotonic()
            self._silence += min(now - before, 2 * LOOKS)  # not what this process slept
            before = now
            if self._silence > self._answers + HEARD_WITHIN:
                complain(f"esft-bench: {self._sentence}")
                os._exit(2)

    @property
    def nodes(self) -> Sequence[Node]:
        """Those that were alive a moment ago. Raises HeadLostError where there was no answer for too long."""
        if self.lost:
            self._over.set()
            raise HeadLostError(self._sentence)
        return self._nodes

    def has_ended(self, lost: float, node: str) -> bool:
        """Whether what was lost on a node is over there: not for a while where the node was cut off (see `fence`)."""
        told = self.asked > lost  # or else it may turn out that the node is gone
        if node and all(each.id != node for each in self.nodes):
            return time.monotonic() - lost > OVER
        return told or not node

    @property
    def _sentence(self) -> str:
        return (
            f"The Ray cluster's head has not answered for {self._answers:.0f} seconds: see that it runs, or start the "
            "cluster again; the same command goes on with what is finished."
        )

    @property
    def lost(self) -> bool:
        """Whether the head is gone."""
        return self._silence > self._answers

    def close(self) -> None:
        """Ask no more."""
        self._over.set()
