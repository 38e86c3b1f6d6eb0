"""The executor of one machine: child processes for models in memory, engines, threads for what only waits.

On one accelerator training and serving never hold it together; without one they do not share the processor's cores,
so that what is measured is the step's own. A server that takes one core is in the place of one training, beside others:
while it starts, and while there is something to test, which goes before training since nothing else can serve.
"""

import threading
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, cast

from esft_bench.harness.execute.child import Message, one_step, run
from esft_bench.harness.execute.executor import BATCHES, Ended, Progressed
from esft_bench.harness.execute.local_engines import EngineProcess, LocalEngines, Making
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Job, Parallelism, Resources, Step


@dataclass
class _Work:
    """The steps behind a pipe that are not over, by their places, and what runs them."""

    steps: dict[int, Step]
    runner: Any


PRELOADED = ["esft_bench.harness.execute.preloaded"]
"""What the process that children are forked from imports once."""


class LocalExecutor:
    """Runs steps on this machine. `folder` takes the log and, in `server`, those of the engine."""

    def __init__(
        self, parallelism: Parallelism, folder: Path, judges: Panel, batches: bool, tensor_parallel: int = 1
    ) -> None:
        self._parallelism, self._folder, self._judges = parallelism, folder, judges
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._running: dict[connection.Connection, _Work] = {}
        self._held: Counter[str] = Counter()
        self._slots = {"process": parallelism.workers, "network": BATCHES if batches else 1, "nothing": 1}
        making = Making(self._context, folder / "server", self.log, parallelism.threads, tensor_parallel)
        self._engines = LocalEngines(making)
        self._keeps = False

    def start_engine(self, settings: EngineSettings, checkpoint: Path) -> None:
        """Start an engine that is no burden to trainings beside it, before the first of them; it stays from then on."""
        self._keeps = True
        self._held["process"] += 1  # until it has started
        self._engines.start_ahead(settings, checkpoint)

    @property
    def log(self) -> Path:
        """Where everything that is not for the user's eyes is written."""
        return self._folder / "esft-bench.log"

    def asks(self, step: Step) -> Resources:
        """What the step says: no room here is counted in accelerators."""
        return step.resources

    @property
    def states(self) -> Collection[str]:
        """What engines serve."""
        return self._engines.states

    def fit(self, asked: Resources) -> int | None:
        """How well a step fits what is held now, 0 best; None where it must wait.

        1 where an engine has to change or go, 2 for a process in a place that an engine could take.
        """
        own = self._engines.own
        serving = own is not None and not own.idle
        if asked.holds == "engine":
            places = self._slots["process"] if self._keeps else 1
            room = serving or not (self._held["process"] >= places or (own and own.starting))
            return self._engines.fit(asked) if room or not asked.gpus else None
        if asked.holds != "process":
            return 0 if self._held[asked.holds] < self._slots[asked.holds] else None
        if self._held["process"] + serving >= self._slots["process"] or (serving and not self._keeps):
            return None
        return 2 if self._keeps else int(own is not None)

    def start(self, step: Step, job: Job) -> None:
        """Begin a step in a child, in the engine's process, or in a thread."""
        asked = step.resources
        if asked.holds == "engine":
            self._engines.collect(step, job)
            return
        self._held[asked.holds] += 1
        ours, theirs = self._context.Pipe(duplex=False)
        if asked.holds in ("network", "nothing"):
            job = replace(job, borrowed=self._judges)
            thread = threading.Thread(target=run, args=(step, job, theirs.send), daemon=True)
            thread.start()
            self._running[ours] = _Work({0: step}, theirs)  # kept open: the thread ends by what it says
            return
        if not self._keeps:
            self._engines.close_own()
        process = self._context.Process(target=one_step, args=(step, job, theirs, self.log), daemon=True)
        process.start()
        theirs.close()
        self._running[ours] = _Work({0: step}, process)

    def wait(self) -> Sequence[Progressed | Ended]:
        """What children, engine and threads had to say; waits a fifth of a second where they had nothing."""
        for engine, steps in self._engines.give():
            self._running[engine.pipe] = _Work(dict(enumerate(steps)), engine.process)
        events: list[Progressed | Ended] = []
        starting = self._engines.starting
        for ready in connection.wait([*self._running, *starting], timeout=0.2):
            pipe = cast("connection.Connection", ready)
            if pipe in starting:
                self._has_started(starting[pipe])
                continue
            work = self._running[pipe]
            for said in _hear(pipe, work):
                events.append(said.of(work.steps[said.place]))
                if said.ended:
                    self._ended(pipe, work, said.place)
        return events

    def _has_started(self, engine: EngineProcess) -> None:
        """An engine's server was started ahead, or its process has ended over it."""
        self._held["process"] -= 1
        engine.starting = False
        try:
            engine.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._engines.close(engine)

    def _ended(self, pipe: connection.Connection, work: "_Work", place: int) -> None:
        """A step is over; the last one behind a pipe lets go of what ran it. An engine stays, unless it ended."""
        holds = work.steps.pop(place).resources.holds
        self._held[holds] -= holds != "engine"
        if work.steps:
            return
        del self._running[pipe]
        if holds == "engine":
            engine = self._engines.of(work.runner)
            engine.busy = False
            if not work.runner.is_alive():
                self._engines.close(engine)
            return
        pipe.close()
        work.runner.join() if holds == "process" else work.runner.close()

    def close(self) -> None:
        """End every child, the engine and the judging at once; scratch folders stay for the next run.

        A server that is no burden ends beside what comes next, and before this process does.
        """
        self._judges.close()
        for pipe, work in self._running.items():
            if any(step.resources.holds == "process" for step in work.steps.values()):
                work.runner.kill()
                work.runner.join()
                pipe.close()
        self._running.clear()
        ending = threading.Thread(target=self._engines.close_all)
        ending.start()
        if not self._keeps:
            ending.join()


def _hear(pipe: connection.Connection, work: _Work) -> list[Message]:
    """The next word from running steps; a process that ended without one is an error of all of them."""
    try:
        return [cast(Message, pipe.recv())]
    except (EOFError, ConnectionResetError):
        work.runner.join()
        why = f"its process ended with code {work.runner.exitcode}"
        return [Message(place, ended=True, error=why) for place in work.steps]
