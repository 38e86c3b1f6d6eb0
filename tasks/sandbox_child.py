"""What runs inside the sandbox: a process that runs each program in a child of its own and reports on it.

Started by `tasks.sandbox` with this file's text (`python -I -S -c`), since the file itself may be hidden in there.
Standard library only. In: one JSON object on stdin. Out, as JSON lines: `"ready"`, then `[ok, detail]` per program.

A program is ok only if the child comes back from `exec` and then delivers a token drawn for it. While the program
runs, the token lies nowhere but on the interpreter's value stack: not in a variable, a frame or an argument.
"""

import contextlib
import ctypes
import json
import os
import resource
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
POLL_SECONDS = 0.01
MOST_PROCESSES = 16
DETAIL_CHARACTERS = 300


def prctl(option: int, value: int) -> None:
    """Set a Linux process attribute; elsewhere do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def limit(seconds: float, memory_bytes: int) -> None:
    """Bound CPU time, address space, processes, file size, open files and core dumps of this process."""
    limits = {
        "RLIMIT_CPU": int(seconds) + 1,
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_NPROC": 0,  # no new process or thread; the kernel exempts root
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(getattr(resource, name), (value, value))


def child(program: str, tokens: list[bytes], pipe: int, seconds: float, memory_bytes: int) -> None:
    """Run the program in this forked process and leave; never returns."""
    write, leave = os.write, os._exit  # a program may replace the ones in the module
    execute: Callable[..., Any] = exec
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(pipe, 3)
        for standard in range(3):
            os.dup2(null, standard)
        os.closerange(4, 256)
        limit(seconds, memory_bytes)
        main: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
        # Left to right: the token leaves the list for the value stack, the program runs, the token is delivered.
        write(3, tokens.pop() + (execute(compile(program, "program.py", "exec"), main) or b""))
        leave(0)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            write(3, detail[:DETAIL_CHARACTERS].encode(errors="replace"))
    finally:
        leave(1)


def crowded(alone: bool) -> bool:
    """Whether a program has started more processes than any honest one needs (seen in a process namespace only)."""
    return alone and sum(name.isdigit() for name in os.listdir("/proc")) > MOST_PROCESSES  # noqa: PTH208


def watch(pid: int, pipe: int, seconds: float, alone: bool) -> tuple[bytes, str]:
    """Wait until the child speaks, leaves or must be stopped: (what it said, else why there is nothing)."""
    end = time.monotonic() + seconds
    listening = [pipe]
    while True:
        if select.select(listening, [], [], POLL_SECONDS)[0]:
            said = os.read(pipe, 4096)
            if said:
                return said, ""
            listening = []  # it closed the pipe, but may still be running
        left, status = os.waitpid(pid, os.WNOHANG)
        if left:
            return b"", farewell(os.waitstatus_to_exitcode(status))
        if crowded(alone):
            return b"", "started too many processes"
        if time.monotonic() > end:
            return b"", f"timed out after {seconds:g} s"


def farewell(code: int) -> str:
    """How a child left that said nothing, from its exit code (negative: a signal)."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"left before its end with status {code}"


def clear(pid: int, alone: bool) -> None:
    """Kill the child and whatever it started, and reap all of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(-1 if alone else -pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def run(program: str, seconds: float, memory_bytes: int, alone: bool) -> tuple[bool, str]:
    """Run one program in a child process: (whether it ran to its end, why not)."""
    token = secrets.token_bytes(16)
    tokens = [token]
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        del token
        child(program, tokens, writing, seconds, memory_bytes)
    os.close(writing)
    said, reason = watch(pid, reading, seconds, alone)
    clear(pid, alone)
    os.close(reading)
    if secrets.compare_digest(said, token):
        return True, ""
    return False, reason or said[:DETAIL_CHARACTERS].decode(errors="replace")


def main() -> None:
    """Read the programs, run them one after the other, print a line for each."""
    prctl(PR_SET_DUMPABLE, 0)  # a program of the same user may not read or write this process
    work = json.load(sys.stdin)
    # kill(-1) outside a process namespace would end everything the user runs: believe the flag only with a low pid.
    alone = work["alone"] and os.getpid() < 8
    for module in work["preload"]:
        __import__(module)
    print(json.dumps("ready"), flush=True)
    for program in work["programs"]:
        print(json.dumps(run(program, work["seconds"], work["memory_bytes"], alone)), flush=True)


main()
