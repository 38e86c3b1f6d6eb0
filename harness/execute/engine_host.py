"""A child that holds a serving engine and runs, one after another, the steps that borrow it."""

from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path

from esft_bench.harness.execute.child import run, settle
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Job, Step


@dataclass(frozen=True)
class Host:
    """What an engine's process is told: the engine, and where it and its process write their logs."""

    engine: EngineSettings
    logs: Path
    log: Path
    threads: int


def host_engine(host: Host, pipe: connection.Connection) -> None:
    """Run the steps that come through the pipe until it closes, then close the engine."""
    settle(host.log, host.threads)
    from esft_bench.harness.serving.served import Served, make_engine  # here: lm-eval takes seconds to import

    served = Served(lambda: make_engine(host.engine, host.logs), host.engine.trust_remote_code)
    try:
        while True:
            step, job = _next(pipe)
            run(step, replace(job, borrowed=served), pipe.send, fatal=lambda: not served.has_served)
    except EOFError:
        pass
    finally:
        served.close()


def _next(pipe: connection.Connection) -> tuple[Step, Job]:
    step, job = pipe.recv()
    return step, job
