"""What runs inside the sandbox: a process that runs each program in a child of its own and reports on it.

Started by `tasks.sandbox` with this file's text (`python -I -S -c`), since the file itself may be hidden in there.
Standard library only. In, as JSON lines: the settings, then `[secret, program]`, one at a time. Out: `"ready"`, then
`[secret, ok, detail]` for each program.

A program is ok only if the child comes back from `exec` and then delivers a token drawn for it. While the program
runs, the token lies nowhere but on the interpreter's value stack: not in a variable, a frame or an argument. The
secret, which makes a line a verdict, is read after the child is forked: it lies in no memory that a program can read.
"""

import contextlib
import json
import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from esft_bench.tasks.sandbox_kernel import confine, hide_memory, seal

POLL_SECONDS = 0.01
DETAIL_CHARACTERS = 300
TOKEN_BYTES = 16


@dataclass(frozen=True)
class Settings:
    """How to run programs: limits, whether the kernel's help is a must, and whether the file system is read-only."""

    seconds: float
    memory_bytes: int
    walled: bool
    frozen: bool


def guard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook that refuses what would look into the interpreter: raw memory, tracing, the collector's view.

    It stands on constants only, since a program can replace every name.
    """
    refused = ("ctypes.", "sys.settrace", "sys.setprofile", "sys.monitoring", "gc.get_")
    if event.startswith(refused):
        raise PermissionError
    if event == "import" and "".__class__.__contains__(arguments[0], "ctypes"):
        raise ImportError


def child(source: int, pipe: int, settings: Settings) -> None:
    """Wait for the token and the program in this forked process, run it and leave; never returns."""
    write, leave = os.write, os._exit  # a program may replace the ones in the module
    execute: Callable[..., Any] = exec
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(source, 4)  # first, since it may be 3
        os.dup2(pipe, 3)
        for standard in range(3):
            os.dup2(null, standard)
        os.closerange(5, 256)
        if not confine(settings.seconds, settings.memory_bytes, settings.frozen) and settings.walled:
            write(3, b"the kernel refuses to confine a process (seccomp)")
            leave(1)
        text = b"".join(iter(lambda: os.read(4, 1 << 20), b""))
        os.close(4)
        tokens, program = [text[:TOKEN_BYTES]], text[TOKEN_BYTES:].decode(errors="surrogatepass")
        del text
        sys.addaudithook(guard)
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


def watch(pid: int, pipe: int, seconds: float) -> tuple[bytes, str]:
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
        if time.monotonic() > end:
            return b"", f"timed out after {seconds:g} s"


def farewell(code: int) -> str:
    """How a child left that said nothing, from its exit code (negative: a signal)."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"left before its end with status {code}"


def clear(pid: int) -> None:
    """Kill the child and, where the kernel let it have any, its processes; reap all of it."""
    for target in (-pid, pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(target, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def run_next(settings: Settings) -> bool:
    """Run the next program in a child process that exists before its text comes in; False where there is none."""
    source, give = os.pipe()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(source, writing, settings)
    os.close(source)
    os.close(writing)
    try:
        line = sys.stdin.readline()
        if not line:
            return False
        secret, program = json.loads(line)
        token = secrets.token_bytes(TOKEN_BYTES)
        with contextlib.suppress(BrokenPipeError), open(give, "wb", closefd=False) as pipe:
            pipe.write(token + program.encode(errors="surrogatepass"))
        os.close(give)
        said, reason = watch(pid, reading, settings.seconds)
        ok = secrets.compare_digest(said, token)
        detail = "" if ok else reason or said[:DETAIL_CHARACTERS].decode(errors="replace")
    finally:
        clear(pid)
        os.close(reading)
    print(json.dumps([secret, ok, detail]), flush=True)
    return True


def main() -> None:
    """Read the settings, then run the programs one after the other."""
    hide_memory()
    work = json.loads(sys.stdin.readline())
    for module in work["preload"]:
        __import__(module)
    frozen = work["frozen"] or (work["seal"] and seal(work["hidden"], work["kept"]))
    settings = Settings(work["seconds"], work["memory_bytes"], work["walled"], frozen)
    print(json.dumps("ready"), flush=True)
    while run_next(settings):
        pass


main()
