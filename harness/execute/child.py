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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from esft_bench.harness.execute.executor import Ended, Progressed
from esft_bench.harness.steps.step import Job, Step
from esft_bench.harness.store.sealing import Sealed, seal
from esft_bench.harness.training.together.machines import LostError
from esft_bench.spec.errors import NoSpaceError, UserError
from esft_bench.spec.files import full_disk_is_a_sentence, made_folder
from esft_bench.spec.progress import Progress

Send = Callable[[Any], None]
PAUSE = 0.2
"""Seconds between two words about a step's progress."""
AT_ONCE = 8
"""So many folders are sealed at a time: most of it is waiting for the disk."""


@dataclass(frozen=True)
class Message:
    """What a child says of its step, by its place where it runs several; see `executor.Ended`.

    `lost`: it ended as a machine that worked on it was lost; it can be begun again.
    """

    place: int = 0
    done: int = 0
    total: int = 0
    ended: bool = False
    measured: dict[str, Any] | None = None
    error: str = ""
    fatal: bool = False
    no_space: bool = False
    lost: bool = False
    sealed: Sealed | None = None

    def of(self, step: Step) -> Progressed | Ended:
        """The same as the scheduler hears it."""
        if not self.ended:
            return Progressed(step, self.done, self.total)
        return Ended(step, self.measured or {}, self.error, self.fatal, self.no_space, self.sealed)


Fatal = Callable[[], bool]
"""Whether a user's error would meet all other steps too."""


def never() -> bool:
    """No error would."""
    return False


def run(step: Step, job: Job, send: Send, fatal: Fatal = never, place: int = 0) -> None:
    """Run a step and say how it goes and ends."""
    try:
        with full_disk_is_a_sentence(job.out / "x"):
            measured = step.run(_telling(job, send, place))
            sealed = _sealed(job, measured)
        send(Message(place, ended=True, measured=measured, sealed=sealed))
    except NoSpaceError as error:
        send(Message(place, ended=True, error=str(error), fatal=True, no_space=True))
    except UserError as error:
        send(Message(place, ended=True, error=str(error), fatal=fatal()))
    except LostError as error:
        send(Message(place, ended=True, error=str(error), lost=True))
    except BaseException as error:
        print(f"--- {step.label}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        send(Message(place, ended=True, error=f"{type(error).__name__}: {first_line(error)}"))


Placed = Sequence[tuple[int, tuple[Step, Job]]]
"""Work with the places by which is told of it."""


def run_together(work: Sequence[tuple[Step, Job]], send: Send, fatal: Fatal = never) -> None:
    """Run steps that ask for the very same, kind by kind, together where the kind wants it.

    Where that fails, each is run by itself, so that only those fail that have to.
    """
    for kind in dict.fromkeys(type(step) for step, _ in work):
        own = [(place, each) for place, each in enumerate(work) if type(each[0]) is kind]
        if kind.together and len(own) > 1 and _ran_together(own, send):
            continue
        for place, (step, job) in own:
            run(step, job, send, fatal, place)


def _ran_together(work: Placed, send: Send) -> bool:
    """Run steps of one kind together, and say how they end; False, with a word in the log, where that fails."""
    first = work[0][1][0]
    try:
        measured = type(first).run_together([(step, _telling(job, send, place)) for place, (step, job) in work])
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sealed = list(pool.map(_sealed, [job for _, (_, job) in work], measured))
    except Exception:
        print(f"--- {first.label} and others\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        return False
    for (place, _), each, left in zip(work, measured, sealed, strict=True):
        send(Message(place, ended=True, measured=each, sealed=left))
    return True


def _telling(job: Job, send: Send, place: int) -> Job:
    """A job, its folder made, whose progress is passed on."""
    made_folder(job.out)
    return replace(job, progress=_now_and_then(send, place))


def _sealed(job: Job, measured: Mapping[str, Any]) -> Sealed | None:
    """What a step left, closed; None where nobody told what it is."""
    return seal(job.out, job.manifest, measured) if job.manifest else None


def first_line(error: BaseException) -> str:
    """The first line of what an error says that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _now_and_then(send: Send, place: int) -> Progress:
    """Progress that is passed on, but not more often than anyone looks."""
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > PAUSE:
            last = time.monotonic()
            send(Message(place, done, total))

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
