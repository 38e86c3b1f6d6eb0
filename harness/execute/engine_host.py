"""A child that holds a serving engine and runs the steps that borrow it, those for one model together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path

from esft_bench.harness.execute.child import Message, run_together, settle
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Job, Step

READY = Message(place=-1)
"""What an engine's process says of a server that it was to start ahead: it answers, or cannot be started."""


@dataclass(frozen=True)
class Host:
    """What an engine's process is told: the engine, and where it and its process write their logs.

    `ahead` is a checkpoint to serve before any step asks.
    """

    engine: EngineSettings
    logs: Path
    log: Path
    threads: int
    ahead: Path | None = None


def host_engine(host: Host, pipe: connection.Connection) -> None:
    """Run the steps that come through the pipe until it closes, then close the engine."""
    settle(host.log, host.threads)
    from esft_bench.harness.serving.served import Served, make_engine  # here: lm-eval takes seconds to import

    served = Served(lambda: make_engine(host.engine, host.logs), host.engine.trust_remote_code)
    try:
        if host.ahead is not None:
            served.start(host.ahead)
            pipe.send(READY)
        while True:
            work = [(step, replace(job, borrowed=served)) for step, job in _next(pipe)]
            run_together(work, pipe.send, fatal=lambda: not (served.has_served or host.engine.external))
    except EOFError:
        pass
    finally:
        served.close()


def _next(pipe: connection.Connection) -> Sequence[tuple[Step, Job]]:
    work: Sequence[tuple[Step, Job]] = pipe.recv()
    return work
