"""Running generated code: in processes of their own, with limits, and walled off as well as the machine allows.

What each level keeps a program from, and what it does not:

- every level: endless loops (wall and CPU time), memory beyond the limit, writing to files (size limit 0), the
  environment's keys, claiming success by leaving early. Not: code that reads its own interpreter's raw memory, or
  that makes its tests pass without solving the task (`__eq__` that is always true); no check inside one process can.
- `bubblewrap`: also no network, no other process to see or kill, nothing writable, an empty home, temporary folder and
  `/run`. Not: reading other files that the user may read (it has no way to send them), and holes in the kernel.
- `namespaces` (util-linux `unshare`): also no network and no other process to see or kill. Not: reading, emptying or
  deleting any file of the user, and talking to local services through their socket files.
- `limits only`: nothing more, so it is refused unless the user asks for it (`UNSAFE`). Not: the network, the user's
  files, killing the user's processes, reading the environment of other processes of the user, and, as root, starting
  processes without end.
"""

import contextlib
import functools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esft_bench.tasks.errors import TaskError

Isolation = Literal["bubblewrap", "namespaces", "limits only"]
LEVELS: tuple[Isolation, ...] = ("bubblewrap", "namespaces", "limits only")

MIB = 1024 * 1024
UNSAFE = "ESFT_BENCH_UNSAFE_CODE"
"""The environment variable that, set to 1, lets generated code run where there is no sandbox."""

PRELOAD = ("collections", "functools", "heapq", "itertools", "math", "random", "re", "string", "typing")
GRACE_SECONDS = 5.0
"""How much longer than a program's own time the sandbox may be silent before it is given up."""


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
    limits = _Limits(5.0, 512 * MIB)
    try:
        return next(_run_batch(["pass"], limits, level), Outcome(False, "")).ok
    except (OSError, TaskError):
        return False


def _run_share(programs: Sequence[str], limits: _Limits, level: Isolation) -> list[Outcome]:
    """Run programs in one sandbox; a program that ends the sandbox has failed, and the rest get a new one."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(programs):
        outcomes += _run_batch(programs[len(outcomes) :], limits, level)
        if len(outcomes) < len(programs):
            outcomes.append(Outcome(False, "ended the process that watched over it"))
    return outcomes


def _run_batch(programs: Sequence[str], limits: _Limits, level: Isolation) -> Iterator[Outcome]:
    """Start a sandbox and yield an outcome for each program, fewer if the sandbox dies or falls silent."""
    work = {
        "programs": list(programs),
        "seconds": limits.seconds,
        "memory_bytes": limits.memory_bytes,
        "alone": level != "limits only",
        "preload": PRELOAD,
    }
    process = subprocess.Popen(
        _command(level),
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
    )
    with process:
        try:
            yield from _converse(process, json.dumps(work).encode(), limits.seconds + GRACE_SECONDS, level)
        finally:
            process.kill()


def _converse(process: subprocess.Popen[bytes], work: bytes, patience: float, level: Isolation) -> Iterator[Outcome]:
    """Hand the work to a started sandbox and yield what it reports."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ValueError("a sandbox is spoken to through pipes")
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(work)
    lines = _lines(process.stdout.fileno(), patience)
    if next(lines, None) is None:
        process.kill()
        said = process.stderr.read(500).decode(errors="replace").strip()
        raise TaskError(f"The sandbox for generated code ({level}) did not start: {said or 'it said nothing'}.")
    for line in lines:
        yield Outcome(*json.loads(line))


def _lines(descriptor: int, patience: float) -> Iterator[bytes]:
    """Yield whole lines until the end, or until nothing has come for `patience` seconds."""
    buffer = b""
    until = time.monotonic() + patience
    while select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(descriptor, 65536)
        if not piece:
            return
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            yield line
            until = time.monotonic() + patience


def _command(level: Isolation) -> list[str]:
    """The command line that starts the child's text in a sandbox of this level."""
    python = getattr(sys, "_base_executable", None) or sys.executable
    code = Path(__file__).with_name("sandbox_child.py").read_text(encoding="utf-8")
    child = [python, "-I", "-S", "-c", code]
    if level == "bubblewrap":
        return [*_bubblewrap(), *child]
    if level == "namespaces":
        unshare = [shutil.which("unshare") or "unshare", "--user", "--map-current-user", "--net", "--ipc", "--uts"]
        return [*unshare, "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--", *child]
    return child


def _bubblewrap() -> list[str]:
    """Bubblewrap's options: all namespaces, a read-only root, home and temporary folders empty, no capabilities."""
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    command += ["--chdir", "/", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    hidden = [str(path) for path in _hidden()]
    for path in hidden:
        command += ["--tmpfs", path]
    for prefix in sorted({sys.base_prefix, sys.base_exec_prefix}):
        command += ["--ro-bind", prefix, prefix]
    for path in [*hidden, "/dev"]:
        command += ["--remount-ro", path]
    return [*command, "--"]


def _hidden() -> list[Path]:
    """Folders that a program sees empty: they hold keys, sockets and the work of others."""
    candidates = {Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/run"), Path.home()}  # noqa: S108
    folders = {path.resolve() for path in candidates if path.is_dir()}
    return sorted(path for path in folders if path != Path("/"))
