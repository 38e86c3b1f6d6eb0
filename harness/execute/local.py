"""The executor of one machine: child processes for models in memory, one engine, threads for what only waits.

On one accelerator training and serving never hold it together; without one they do not share the processor's cores,
so that what is measured is the step's own.
"""

import threading
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection, forkserver, get_context
from pathlib import Path
from typing import Any, cast

from esft_bench.harness.execute.child import Message, one_step, run
from esft_bench.harness.execute.engine_host import Host, host_engine
from esft_bench.harness.execute.executor import BATCHES, TOGETHER, Ended, Progressed
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Job, Parallelism, Resources, Step


@dataclass
class _Work:
    """The steps behind a pipe that are not over, by their places, and what runs them."""

    steps: dict[int, Step]
    runner: Any


PRELOADED = ["esft_bench.harness.training.cell", "esft_bench.harness.serving.questions"]
"""What the process that children are forked from imports once."""


def warm_up() -> None:
    """Let the process that children are forked from begin its imports, beside what else is to be done before them."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


class LocalExecutor:
    """Runs steps on this machine. `folder` takes the log and, in `server`, those of the engine."""

    def __init__(self, parallelism: Parallelism, folder: Path, judges: Panel, batches: bool) -> None:
        self._parallelism, self._folder, self._judges = parallelism, folder, judges
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._running: dict[connection.Connection, _Work] = {}
        self._held: Counter[str] = Counter()
        self._slots = {"process": parallelism.workers, "engine": TOGETHER, "network": BATCHES if batches else 1}
        self._slots["nothing"] = 1
        self._engine: _Engine | None = None

    @property
    def log(self) -> Path:
        """Where everything that is not for the user's eyes is written."""
        return self._folder / "esft-bench.log"

    def asks(self, step: Step) -> Resources:
        """What the step says: no room here is counted in accelerators."""
        return step.resources

    @property
    def states(self) -> Collection[str]:
        """What the engine serves."""
        return () if self._engine is None else (self._engine.state,)

    def fit(self, asked: Resources) -> int | None:
        """0 where a step can start as things are, 1 where the engine has to change or go, None where it must wait."""
        if self._held[asked.holds] >= self._slots[asked.holds]:
            return None
        if asked.holds == "process":
            return None if self._held["engine"] else 0 if self._engine is None else 1
        if asked.holds == "engine":
            as_is = self._engine is not None and self._engine.serves(asked)
            if self._held["engine"]:  # what is asked for the same model is asked together
                return 0 if as_is and self._engine and self._engine.collects else None
            return None if self._held["process"] else 0 if as_is else 1
        return 0

    def start(self, step: Step, job: Job) -> None:
        """Begin a step in a child, in the engine's process, or in a thread."""
        asked = step.resources
        self._held[asked.holds] += 1
        if asked.holds == "engine":
            self._borrow(step, job)
            return
        ours, theirs = self._context.Pipe(duplex=False)
        if asked.holds in ("network", "nothing"):
            job = replace(job, borrowed=self._judges)
            thread = threading.Thread(target=run, args=(step, job, theirs.send), daemon=True)
            thread.start()
            self._running[ours] = _Work({0: step}, theirs)  # kept open: the thread ends by what it says
            return
        self._close_engine()
        process = self._context.Process(target=one_step, args=(step, job, theirs, self.log), daemon=True)
        process.start()
        theirs.close()
        self._running[ours] = _Work({0: step}, process)

    def _borrow(self, step: Step, job: Job) -> None:
        """Give a step to the engine it asks for, which is started where there is none, or another one."""
        settings = cast(EngineSettings, step.resources.engine)
        if self._engine is not None and not self._engine.is_for(settings):
            self._close_engine()
        if self._engine is None:
            host = Host(settings, self._folder / "server", self.log, self._parallelism.threads)
            self._engine = _Engine(self._context, host)
        place = self._engine.add(step, job)
        self._running.setdefault(self._engine.pipe, _Work({}, self._engine.process)).steps[place] = step

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def wait(self) -> Sequence[Progressed | Ended]:
        """What children, engine and threads had to say; waits a fifth of a second where they had nothing."""
        if self._engine is not None:
            self._engine.give()
        events: list[Progressed | Ended] = []
        for ready in connection.wait(list(self._running), timeout=0.2):
            pipe = cast("connection.Connection", ready)
            work = self._running[pipe]
            for said in _hear(pipe, work):
                events.append(said.of(work.steps[said.place]))
                if said.ended:
                    self._ended(pipe, work, said.place)
        return events

    def _ended(self, pipe: connection.Connection, work: "_Work", place: int) -> None:
        """A step is over; the last one behind a pipe lets go of what ran it. An engine stays, unless it ended."""
        holds = work.steps.pop(place).resources.holds
        self._held[holds] -= 1
        if work.steps:
            return
        del self._running[pipe]
        if holds == "engine":
            if not work.runner.is_alive():
                self._close_engine()
            return
        pipe.close()
        work.runner.join() if holds == "process" else work.runner.close()

    def close(self) -> None:
        """End every child, the engine and the judging at once; scratch folders stay for the next run."""
        self._judges.close()
        for pipe, work in self._running.items():
            if any(step.resources.holds == "process" for step in work.steps.values()):
                work.runner.kill()
                work.runner.join()
                pipe.close()
        self._running.clear()
        self._close_engine()


class _Engine:
    """The process that holds an engine, and what that serves."""

    def __init__(self, context: Any, host: Host) -> None:
        self.pipe, theirs = context.Pipe()
        self._settings = host.engine
        self.state = ""
        self._collected: list[tuple[Step, Job]] = []
        self.process = context.Process(target=host_engine, args=(host, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def is_for(self, settings: EngineSettings) -> bool:
        """Whether this is the engine that is asked for."""
        return self._settings == settings

    def serves(self, asked: Resources) -> bool:
        """Whether it is, and serves the model that is asked for."""
        return self._settings == asked.engine and self.state == asked.state

    def add(self, step: Step, job: Job) -> int:
        """Collect a step, whose model is the one that is served then; returns its place among those given together."""
        self.state = step.resources.state
        self._collected.append((step, job))
        return len(self._collected) - 1

    @property
    def collects(self) -> bool:
        """Whether steps have been collected and not been given yet."""
        return bool(self._collected)

    def give(self) -> None:
        """Have it run what was collected."""
        if self._collected:
            self.pipe.send(self._collected)
        self._collected = []

    def close(self) -> None:
        """Let the engine close itself; a process that does not end is killed, and its server dies with it."""
        self.pipe.close()
        self.process.join(timeout=15)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _hear(pipe: connection.Connection, work: _Work) -> list[Message]:
    """The next word from running steps; a process that ended without one is an error of all of them."""
    try:
        return [cast(Message, pipe.recv())]
    except (EOFError, ConnectionResetError):
        work.runner.join()
        why = f"its process ended with code {work.runner.exitcode}"
        return [Message(place, ended=True, error=why) for place in work.steps]
