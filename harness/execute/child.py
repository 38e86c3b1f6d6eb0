"""A step in a child process: memory is given back, a crash stays in its step, and children die with their parent.

Children are forked from a server process that has imported torch and transformers once, so a step starts in
milliseconds. What they print goes to the run's log; what they have to say comes through a pipe.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from esft_bench.harness.steps.step import Job, Step
from esft_bench.spec.errors import NoSpaceError, UserError
from esft_bench.spec.files import full_disk_is_a_sentence
from esft_bench.spec.progress import Progress

Send = Callable[[Any], None]
PAUSE = 0.2
"""Seconds between two words about a step's progress."""


@dataclass(frozen=True)
class Message:
    """What a child says of its step; see `executor.Ended`."""

    done: int = 0
    total: int = 0
    ended: bool = False
    measured: dict[str, Any] | None = None
    error: str = ""
    fatal: bool = False
    no_space: bool = False


def run(step: Step, job: Job, send: Send, fatal: Callable[[], bool] = lambda: False) -> None:
    """Run a step and say how it goes and ends. `fatal` says whether a user's error would meet all other steps too."""
    try:
        with full_disk_is_a_sentence(job.out / "x"):
            measured = step.run(replace(job, progress=_now_and_then(send)))
        send(Message(ended=True, measured=measured))
    except NoSpaceError as error:
        send(Message(ended=True, error=str(error), fatal=True, no_space=True))
    except UserError as error:
        send(Message(ended=True, error=str(error), fatal=fatal()))
    except BaseException as error:
        print(f"--- {step.label}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        send(Message(ended=True, error=f"{type(error).__name__}: {_first_line(error)}"))


def _first_line(error: BaseException) -> str:
    """The first line of what an error says that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _now_and_then(send: Send) -> Progress:
    """Progress that is passed on, but not more often than anyone looks."""
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > PAUSE:
            last = time.monotonic()
            send(Message(done, total))

    return progress


def settle(log: Path, threads: int) -> None:
    """Make this process a quiet and repeatable child: it prints to the log, and ends when its parent does."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    quieten(threads)


def quieten(threads: int) -> None:
    """Hold torch to so many threads, and the libraries' chatter back."""
    import logging

    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def _die_with_parent() -> None:
    """Wait for the run's own process to end, however it ends, and end this one."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def one_step(step: Step, job: Job, pipe: connection.Connection, log: Path) -> None:
    """The whole of a child that runs one step."""
    settle(log, job.parallelism.threads)
    run(step, job, pipe.send)
