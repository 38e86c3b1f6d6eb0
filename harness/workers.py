"""Running steps in child processes, a few at a time: memory is given back, and a crash stays in its step.

Children are forked from a server process that has imported torch and transformers once, so a step starts in
milliseconds. They die with their parent.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from esft_bench.spec.errors import NoSpaceError, UserError
from esft_bench.spec.files import full_disk_is_a_sentence

Progress = Callable[[int, int], None]
StepFunction = Callable[[Any, dict[str, Any], Progress], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """A step to run in a child: `function` names it as `module:function`, called with places, settings, progress."""

    name: str
    function: str
    places: Any
    settings: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a job ended: what it measured, or one sentence on what went wrong (details are in the log).

    `fatal` errors (no disk space) would meet every other job too.
    """

    job: Job
    measured: dict[str, Any]
    error: str = ""
    fatal: bool = False


class Workers:
    """Up to `count` children at a time; each writes what it prints to the run's log."""

    def __init__(self, count: int, log: Path, preload: tuple[str, ...] = ("esft_bench.harness.cells",)) -> None:
        self.count = count
        self.log = log
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._running: dict[connection.Connection, tuple[Job, Any]] = {}

    @property
    def free(self) -> int:
        """How many more jobs can start now."""
        return self.count - len(self._running)

    @property
    def busy(self) -> bool:
        """Whether any job is running."""
        return bool(self._running)

    def start(self, job: Job) -> None:
        """Start a job in a child of its own."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_child, args=(job, theirs, self.log), daemon=True)
        process.start()
        theirs.close()
        self._running[ours] = (job, process)

    def wait(self, on_progress: Callable[[Job, int, int], None], timeout: float = 0.2) -> list[Outcome]:
        """Pass on progress and return the jobs that ended, waiting at most `timeout` seconds."""
        ended = []
        for ready in connection.wait(list(self._running), timeout):
            assert isinstance(ready, connection.Connection)
            job, process = self._running[ready]
            try:
                kind, payload = ready.recv()
            except EOFError:
                process.join()
                kind, payload = "error", f"its process ended with code {process.exitcode}"
            if kind == "progress":
                on_progress(job, *payload)
                continue
            process.join()
            ready.close()
            del self._running[ready]
            ended.append(Outcome(job, payload) if kind == "done" else Outcome(job, {}, payload, kind == "fatal"))
        return ended

    def stop(self) -> None:
        """End every child at once; their scratch folders stay for the next run."""
        for job_connection, (_, process) in self._running.items():
            process.kill()
            process.join()
            job_connection.close()
        self._running.clear()


def _die_with_parent() -> None:
    """Wait for the run's own process to end, however it ends, and end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _child(job: Job, pipe: connection.Connection, log: Path) -> None:
    """Run one job: print to the log, report progress, measurements or the error through the pipe."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    last = 0.0

    def progress(step: int, steps: int) -> None:
        nonlocal last
        if step == steps or time.monotonic() - last > 0.2:
            last = time.monotonic()
            pipe.send(("progress", (step, steps)))

    try:
        module, _, name = job.function.partition(":")
        function: StepFunction = getattr(__import__(module, fromlist=[name]), name)
        with full_disk_is_a_sentence(log):
            measured = function(job.places, job.settings, progress)
        pipe.send(("done", measured))
    except NoSpaceError as error:
        pipe.send(("fatal", str(error)))
    except UserError as error:
        pipe.send(("error", str(error)))
    except BaseException as error:
        print(f"--- {job.name}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        pipe.send(("error", f"{type(error).__name__}: {error}".splitlines()[0]))
