"""An executor without machines: what it is told to do instead of a step it does in this process."""

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from esft_bench.harness.execute.executor import Ended, Progressed
from esft_bench.harness.steps.step import Job, Resources, Step
from esft_bench.spec.files import made_folder


def run(step: Step, job: Job) -> dict[str, Any]:
    return step.run(job)


@dataclass
class Beside:
    """Has a few steps at work, and does the one that was started first whenever it is waited for."""

    does: Callable[[Step, Job], dict[str, Any]] = run
    at_once: int = 3
    done: int = 0
    states: Collection[str] = ()
    _started: deque[tuple[Step, Job]] = field(default_factory=deque)

    def asks(self, step: Step) -> Resources:
        return step.resources

    def fit(self, asked: Resources) -> int | None:
        return 0 if len(self._started) < self.at_once else None

    def start(self, step: Step, job: Job) -> None:
        self._started.append((step, job))

    def wait(self) -> list[Progressed | Ended]:
        if not self._started:
            time.sleep(0.02)
            return []
        step, job = self._started.popleft()
        self.done += 1
        try:
            made_folder(job.out)
            return [Ended(step, self.does(step, job))]
        except OSError as error:  # its folder is gone, where somebody else has taken it over
            return [Ended(step, {}, str(error))]

    def close(self) -> None: ...
