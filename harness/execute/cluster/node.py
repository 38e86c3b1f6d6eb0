"""What runs on a node: steps in Ray's worker processes, the engines that stay there, and how they are heard of."""

import os
import platform
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from esft_bench.harness.execute.child import Fatal, Message, never, quieten, run_together
from esft_bench.harness.execute.cluster.fence import fenced
from esft_bench.harness.execute.cluster.group import Group
from esft_bench.harness.execute.cluster.printed import caught, end_of
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Job, Step

SAID_WITHIN = 5.0
"""Seconds that a step waits for word of its progress to be in the mailbox."""

Lend = Callable[[EngineSettings, Path], Any]
"""Makes what steps borrow of an engine, given where that writes its logs; see `serving.served.Served`."""


@dataclass(frozen=True)
class Order:
    """What a node is asked to do: steps, one or several to be run together, in the driver's working folder.

    `group`: the machines that a step has, where these are several.
    """

    token: int
    work: Sequence[tuple[Step, Job]]
    mailbox: Any
    folder: str = field(default_factory=os.getcwd)
    group: Any = None


@dataclass(frozen=True)
class Outcome:
    """How the steps of an order ended, by their places, and what they printed."""

    ended: Sequence[Message]
    printed: str


@dataclass(frozen=True)
class Begun:
    """An order is at work on a node, in a process."""

    node: str
    process: int


class Mailbox:
    """Keeps what orders say on their way until the driver asks for it."""

    def __init__(self) -> None:
        self._letters: list[tuple[int, Message | Begun]] = []

    def put(self, token: int, said: "Message | Begun") -> None:
        """An order has something to say."""
        self._letters.append((token, said))

    def take(self) -> "list[tuple[int, Message | Begun]]":
        """All that was said since the last call."""
        letters, self._letters = self._letters, []
        return letters


def place_of(job: Job, token: int) -> Path:
    """Where an attempt builds: beside the job's own folder, which gets the one attempt that ends well.

    An attempt that was given up, on a node that is cut off and not dead, spoils nothing then.
    """
    return job.out.with_name(f"{job.out.name}.{token}")


def carry_out(order: Order, borrowed: Any = None, fatal: Fatal = never) -> Outcome:
    """Run an order's steps."""
    os.chdir(order.folder)
    order.mailbox.put.remote(order.token, Begun(ray.get_runtime_context().get_node_id(), os.getpid()))
    ended: list[Message] = []

    def send(message: Message) -> None:
        if message.ended:
            ended.append(message)
        else:  # it may die in a moment, and how far it was counts
            ray.wait([order.mailbox.put.remote(order.token, message)], timeout=SAID_WITHIN)

    with caught() as printed:
        if any("torch" in step.code.libraries for step, _ in order.work):
            quieten(order.work[0][1].parallelism.threads)
        work = [(step, _prepared(job, order, borrowed)) for step, job in order.work]
        with fenced([job.out for _, job in work]):
            run_together(work, send, fatal)
        text = end_of(printed)
    return Outcome(ended, text)


def kill(process: int) -> None:
    """Kill a process of this node, also one that is stopped."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _prepared(job: Job, order: Order, borrowed: Any) -> Job:
    """A job as this attempt has it."""
    if order.group is not None:
        job = replace(job, parallelism=replace(job.parallelism, machines=Group(order.group)))
    return replace(job, out=place_of(job, order.token), borrowed=borrowed)


class EngineHost:
    """An engine that stays on its node, with the checkpoint it serves, and runs the steps that borrow it."""

    def __init__(self, engine: EngineSettings, logs: Path, lend: Lend, keys: Mapping[str, str]) -> None:
        os.environ.update(keys)
        # The port that a suite names is one engine's; here each takes a free one.
        self._engine = replace(engine, evaluation=engine.evaluation.model_copy(update={"port": None}))
        self._logs = logs / f"{platform.node()}-{os.getpid()}"
        self._lend = lend
        self._served: Any = None

    def carry_out(self, order: Order) -> Outcome:
        """Run an order's steps."""
        if self._served is None:
            os.chdir(order.folder)
            self._served = self._lend(self._engine, self._logs)
        served = self._served
        return carry_out(order, served, lambda: not (served.has_served or self._engine.external))

    def close(self) -> None:
        """Close the engine: its memory is free when this returns."""
        if self._served is not None:
            self._served.close()


def lend(engine: EngineSettings, logs: Path) -> Any:
    """The engine that a step asks for."""
    from esft_bench.harness.serving.served import Served, make_engine  # here: lm-eval takes seconds to import

    return Served(lambda: make_engine(engine, logs), engine.trust_remote_code)
