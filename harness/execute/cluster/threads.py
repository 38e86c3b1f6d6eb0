"""Steps in threads of the driver: what only waits for others, such as a judge, and what is done in a moment."""

import queue
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from esft_bench.harness.execute.child import PAUSE, Message, run
from esft_bench.harness.execute.executor import BATCHES, Ended, Progressed
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.steps.step import Job, Resources, Step


class Threads:
    """The steps at work in the driver."""

    def __init__(self, judges: Panel, batches: bool) -> None:
        self._judges = judges
        self._held: Counter[str] = Counter()
        self._slots = {"network": BATCHES if batches else 1, "nothing": 1}
        self._words: queue.SimpleQueue[tuple[Step, Message]] = queue.SimpleQueue()

    @property
    def any(self) -> bool:
        """Whether any is at work."""
        return self._held.total() > 0

    def take(self, asked: Resources) -> bool:
        """Whether steps that ask for this run here."""
        return asked.holds in self._slots

    def fit(self, asked: Resources) -> int | None:
        """See `Executor.fit`."""
        return 0 if self._held[asked.holds] < self._slots[asked.holds] else None

    def start(self, step: Step, job: Job) -> None:
        """Begin a step."""
        self._held[step.resources.holds] += 1

        def send(said: Message) -> None:
            self._words.put((step, said))

        job = replace(job, borrowed=self._judges)
        threading.Thread(target=run, args=(step, job, send), daemon=True).start()

    def said(self, waits: bool) -> Iterator[Progressed | Ended]:
        """What they had to say; waits a moment for it where nothing else is to be heard."""
        with suppress(queue.Empty):
            while True:
                step, said = self._words.get(waits, PAUSE)
                waits = False
                self._held[step.resources.holds] -= said.ended
                yield said.of(step)

    def close(self) -> None:
        """Ask nobody any more."""
        self._judges.close()
