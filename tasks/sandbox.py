"""Running generated code: in processes of their own, with limits, and walled off as well as the machine allows.

Each program has a process, which a second one watches and reports on. What each level keeps a program from:

- every level: endless loops (wall and CPU time), memory beyond the limit, floods of output, the environment's keys,
  claiming success by leaving early, forging a verdict. On Linux (x86-64 and ARM) the kernel also refuses it, root or
  not: other processes and threads, sockets of any kind, signals to others, looking into others, mounts, and every
  change of a file or folder. It has no privileges, and, where root starts it, it is the user `nobody` if that one can
  read Python's own files.
- `bubblewrap`, `namespaces` (util-linux `unshare`): also no network, no other process to see, everything read-only,
  and an empty home, temporary folder, `/run` and `/proc`.
- `limits only`: nothing more, so it is refused unless the user asks for it (`UNSAFE`). Not even /dev/null can be opened
  for writing.

What they do not keep it from (tests named `not_contained` show each):

- every level: making its tests pass without solving the task (`__eq__` that is always true); reading its own
  interpreter's raw memory, and the token of success in it (ctypes and tracing are refused, but code that is after it
  finds a way: no check inside one process can exclude it); holes in the kernel.
- `bubblewrap`, `namespaces`: reading other files that the user (as root: everybody) may read. It can send them nowhere.
- `limits only`: reading all of the user's files and, unless root starts it, the environment of the user's processes;
  where the machine is not Linux, everything but the limits.
"""

import contextlib
import functools
import json
import os
import secrets
import select
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Self

from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.sandbox_walls import LEVELS, Isolation, command, hidden, kept

MIB = 1024 * 1024
UNSAFE = "ESFT_BENCH_UNSAFE_CODE"
"""The environment variable that, set to 1, lets generated code run where there is no sandbox."""

PRELOAD = ("collections", "functools", "heapq", "itertools", "math", "random", "re", "string", "typing")
GRACE_SECONDS = 5.0
"""How much longer than a program's own time the sandbox may be silent before it is given up."""
LINE_BYTES = 1 << 16
"""A longer line is no verdict."""


@dataclass(frozen=True)
class Outcome:
    """Whether a program ran to its end, and if not, why."""

    ok: bool
    detail: str


@dataclass(frozen=True)
class _Limits:
    seconds: float
    memory_bytes: int


def run_python(program: str, *, seconds: float = 5.0, memory_bytes: int = 512 * MIB) -> Outcome:
    """Run one complete program (tests included); it is ok only if it reaches its end without an error."""
    return run_many([program], seconds=seconds, memory_bytes=memory_bytes, workers=1)[0]


def run_many(
    programs: Sequence[str],
    *,
    seconds: float = 5.0,
    memory_bytes: int = 512 * MIB,
    workers: int = 2,
    level: Isolation | None = None,
) -> list[Outcome]:
    """Run many programs, each in a process of its own, `workers` at a time; outcomes in the order given.

    `seconds` is the wall time and `memory_bytes` the address space of each program. `level` overrides the isolation
    that this machine offers (see `isolation`). Raises TaskError if there is no sandbox (see `require`) or none can be
    started: that is no program's fault and must not look like one.
    """
    if not programs:
        return []
    chosen = level or require()
    limits = _Limits(seconds, memory_bytes)
    workers = max(1, min(workers, len(programs)))
    outcomes: list[Outcome | None] = [None] * len(programs)
    with ThreadPoolExecutor(workers) as pool:
        shares = [programs[start::workers] for start in range(workers)]
        for start, share in enumerate(pool.map(lambda part: _run_share(part, limits, chosen), shares)):
            outcomes[start::workers] = share
    return [outcome for outcome in outcomes if outcome is not None]


@functools.cache
def isolation() -> Isolation:
    """The strongest level that works here, found by running a program in each."""
    return next(level for level in LEVELS if level == "limits only" or works(level))


def require() -> Isolation:
    """The level to run generated code at. Raises TaskError where there is no sandbox and the user wants one."""
    level = isolation()
    if level == "limits only" and os.environ.get(UNSAFE) != "1":
        raise TaskError(
            "Generated code is not run here, since neither bubblewrap nor user namespaces work on this machine: "
            f"install bubblewrap, or let it run uncontained with --unsafe-code ({UNSAFE}=1)."
        )
    return level


def works(level: Isolation) -> bool:
    """Whether this machine can run a program at this level."""
    try:
        return _run_share(["pass"], _Limits(5.0, 512 * MIB), level)[0].ok
    except (OSError, TaskError):
        return False


def _run_share(programs: Sequence[str], limits: _Limits, level: Isolation) -> list[Outcome]:
    """Run programs in one sandbox after another: whatever ends one has failed, and the rest get a new one."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(programs):
        outcomes += _run_until_it_ends(programs[len(outcomes) :], limits, level)
    return outcomes


def _run_until_it_ends(programs: Sequence[str], limits: _Limits, level: Isolation) -> list[Outcome]:
    """Run programs in one sandbox; fewer outcomes than programs if it ends.

    A line that was not asked for, or one without its secret, means that something got out: then nothing that this
    sandbox said counts.
    """
    outcomes: list[Outcome] = []
    with _Sandbox(limits, level) as sandbox:
        for program in programs:
            try:
                outcomes.append(sandbox.run(program))
            except _EndedError:
                return [*outcomes, Outcome(False, "ended the process that watched over it")]
            except _ForgedError:
                return [Outcome(False, "a verdict was forged in its sandbox")] * (len(outcomes) + 1)
    return outcomes


class _EndedError(Exception):
    """The sandbox is gone, or silent for too long."""


class _ForgedError(Exception):
    """What came from the sandbox is no verdict on the program in hand."""


class _Sandbox:
    """A started sandbox, which runs one program after the other."""

    def __init__(self, limits: _Limits, level: Isolation) -> None:
        self._patience = limits.seconds + GRACE_SECONDS
        self._buffer = b""
        self._process = subprocess.Popen(
            command(level),
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        work = {
            **asdict(limits),
            "walled": level != "limits only",
            "frozen": level == "bubblewrap",
            "seal": level == "namespaces",
            "hidden": [str(path) for path in hidden()],
            "kept": kept(),
            "preload": PRELOAD,
        }
        self._send(work)
        if self._line() != b'"ready"':
            self._process.kill()
            said = self._process.communicate()[1][-500:].decode(errors="replace").strip()
            raise TaskError(f"The sandbox for generated code ({level}) did not start: {said or 'it said nothing'}.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, program: str) -> Outcome:
        """A program's outcome. Raises _EndedError and _ForgedError."""
        secret = secrets.token_hex(16)
        self._send([secret, program])
        line = self._line()
        if not line:
            raise _EndedError
        try:
            said, ok, detail = json.loads(line)
        except (ValueError, TypeError, RecursionError) as error:
            raise _ForgedError from error
        if said != secret or self._buffer:
            raise _ForgedError
        return Outcome(ok is True, str(detail))

    def _send(self, work: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(work).encode() + b"\n")
            self._process.stdin.flush()

    def _line(self) -> bytes:
        """The next line; nothing at the end, or where none has come for as long as a program may take."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        until = time.monotonic() + self._patience
        while b"\n" not in self._buffer and len(self._buffer) < LINE_BYTES:
            if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
                return b""
            piece = os.read(descriptor, 65536)
            if not piece:
                return b""
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
