"""The driver's view of the engines on a cluster: which holds what, which is free, and what was collected for it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from esft_bench.harness.execute.cluster.node import EngineHost, Lend
from esft_bench.harness.execute.cluster.room import Need
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Job, Resources, Step

CLOSES_WITHIN = 15.0
"""Seconds that an engine gets to close itself and give its memory back."""

Work = list[tuple[Step, Job]]


@dataclass(eq=False)
class Engine:
    """An engine on a node, the model that it serves (or will, once it gets what was collected), and its orders."""

    settings: EngineSettings
    need: Need
    handle: Any
    state: str = ""
    collected: Work = field(default_factory=list)
    orders: int = 0

    def give(self) -> Iterator[Work]:
        """What was collected, as orders: steps of a kind that is best run together are one, others one each."""
        work, self.collected = self.collected, []
        for kind in dict.fromkeys(type(step) for step, _ in work):
            own = [each for each in work if type(each[0]) is kind]
            yield from [own] if kind.together else ([each] for each in own)


class Engines:
    """All engines of a run."""

    def __init__(self, logs: Path, lend: Lend) -> None:
        self._logs, self._lend = logs, lend
        self._all: list[Engine] = []
        self._ready: dict[tuple[EngineSettings, str], Engine] = {}
        self.idle: set[Engine] = set()

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._all)

    @property
    def states(self) -> set[str]:
        """What is served where further steps are taken now."""
        return {state for _, state in self._ready}

    def serving(self, asked: Resources) -> Engine | None:
        """The engine that serves what is asked for, or will next, and takes further steps now."""
        return self._ready.get((asked.engine, asked.state))  # type: ignore[arg-type]

    def like(self, asked: Resources) -> Engine | None:
        """An idle engine that can serve what is asked for."""
        return next((each for each in self.idle if each.settings == asked.engine), None)

    def start(self, settings: EngineSettings, need: Need, state: str) -> Engine:
        """One more engine, on whichever node has room for it."""
        actor: Any = ray.remote(EngineHost)
        options = {"num_cpus": need.cores, "num_gpus": need.gpus, "max_restarts": 0, "max_task_retries": 0}
        engine = Engine(settings, need, actor.options(**options).remote(settings, self._logs, self._lend), state)
        self._all.append(engine)
        self.idle.add(engine)
        return engine

    def collect(self, engine: Engine, step: Step, job: Job) -> None:
        """A step is to be given to an idle or collecting engine."""
        self._ready.pop((engine.settings, engine.state), None)
        engine.state = step.resources.state
        engine.collected.append((step, job))
        self._ready[engine.settings, engine.state] = engine
        self.idle.discard(engine)

    def busy(self, engine: Engine, orders: int) -> None:
        """An engine has been given so many orders."""
        engine.orders += orders
        self._ready.pop((engine.settings, engine.state), None)

    def ended(self, engine: Engine) -> None:
        """An order of an engine has ended; after the last one it is idle, with its model."""
        engine.orders -= 1
        if not engine.orders and engine in self._all:
            self.idle.add(engine)
            self._ready[engine.settings, engine.state] = engine

    def drop(self, engine: Engine) -> None:
        """An engine is dead, or is to be."""
        if engine in self._all:
            self._all.remove(engine)
            self.idle.discard(engine)
            if self._ready.get((engine.settings, engine.state)) is engine:
                del self._ready[engine.settings, engine.state]
            ray.kill(engine.handle)

    def close(self, engine: Engine) -> None:
        """Let an idle engine close itself, so that its memory is free for what comes in its place."""
        ray.wait([engine.handle.close.remote()], timeout=CLOSES_WITHIN)
        self.drop(engine)

    def close_all(self) -> None:
        """End all of them: those at work at once, idle ones as they do."""
        closing = [each.handle.close.remote() for each in self.idle]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSES_WITHIN)
        for each in list(self._all):
            self.drop(each)
