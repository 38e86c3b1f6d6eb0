"""vLLM servers forked from one process that has imported vLLM: most of a small server's start is imports.

    python -m tests.harness.vllm_forked

reads what to start, a line each, and writes the process ids.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import psutil

from esft_bench.harness.serving import launch, server


class Parent:
    """The process that servers are forked from; they end with it, and it with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def popen(self, command: list[str], env: Mapping[str, str], stdout: IO[bytes], **_: Any) -> "Forked":
        """What `subprocess.Popen` does for `server`."""
        assert command[1:3] == ["-m", server.LAUNCHER]
        if self._process is None:
            pipe, told = subprocess.PIPE, [sys.executable, "-m", __name__]
            self._process = subprocess.Popen(told, env=env, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdin
        assert self._process.stdout
        asked = {"arguments": command[3:], "environment": dict(env), "log": stdout.name}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return Forked(int(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        if self._process:
            self._process.communicate()


@dataclass(frozen=True)
class Forked:
    """A server, as far as `server` looks at its process."""

    pid: int
    stdin: None = None

    def poll(self) -> int | None:
        return None if psutil.pid_exists(self.pid) else 0

    def wait(self, timeout: float | None = None) -> None:
        """Raises subprocess.TimeoutExpired."""
        try:
            psutil.Process(self.pid).wait(timeout)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired as error:
            raise subprocess.TimeoutExpired(server.LAUNCHER, error.seconds) from error


def main() -> None:
    """Fork a server for each line."""
    from vllm.entrypoints.cli.serve import ServeSubcommand as _
    from vllm.v1.engine.core import EngineCore as _  # noqa: F811, F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that those which end are gone
    alive = os.pipe()
    for line in sys.stdin:
        told = json.loads(line)
        if child := os.fork():
            print(child, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.close(alive[1])
        log = os.open(told["log"], os.O_WRONLY | os.O_APPEND)
        for own, place in ((alive[0], 0), (log, 1), (log, 2)):
            os.dup2(own, place)
        os.environ.clear()
        os.environ.update(told["environment"])
        sys.argv[1:] = told["arguments"]
        launch.main()
        os._exit(0)


if __name__ == "__main__":
    main()
