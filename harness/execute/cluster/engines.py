"""The driver's view of the engines on a cluster: which holds what, which is free, and what was collected for it."""

import itertools
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import ray

from esft_bench.harness.execute.cluster.node import EngineHost, Lend
from esft_bench.harness.execute.cluster.room import Need, Room
from esft_bench.harness.execute.executor import TOGETHER
from esft_bench.harness.execute.sharing import Work, shares
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Job, Resources, Step

CLOSES_WITHIN = 15.0
"""Seconds that an engine gets to close itself and give its memory back."""


@dataclass(eq=False)
class Engine:
    """An engine on a node, the model that it serves (or will, once it gets what was collected), and its orders.

    `asked` is what steps ask for; `endpoint` is the server of others that it asks, where it is no server itself;
    `began`: whether it was ever given any orders; `node`: where it is, once it has begun one.
    """

    asked: Resources
    need: Need
    handle: Any
    state: str = ""
    collected: Work = field(default_factory=list)
    orders: int = 0
    endpoint: str = ""
    began: bool = False
    node: str = ""

    @property
    def settings(self) -> EngineSettings:
        """Its own, but for where it was put."""
        return cast(EngineSettings, self.asked.engine)

    def give(self) -> Iterator[Work]:
        """What was collected, as orders: steps of a kind that is best run together are one, others one each."""
        work, self.collected = self.collected, []
        for kind in dict.fromkeys(type(step) for step, _ in work):
            own = [each for each in work if type(each[0]) is kind]
            yield from [own] if kind.together else ([each] for each in own)


class Engines:
    """All engines of a run, and the room that they take."""

    def __init__(self, logs: Path, lend: Lend, room: Room) -> None:
        self._logs, self._lend, self._room = logs, lend, room
        self._all: list[Engine] = []
        self._ready: dict[tuple[EngineSettings, str], Engine] = {}
        self._idle: set[Engine] = set()

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._all)

    @property
    def states(self) -> set[str]:
        """What is served where further steps are taken now."""
        return {state for _, state in self._ready}

    def fit(self, asked: Resources, need: Need) -> int | None:
        """0 where the model is served, or will be next, and can be asked more; 1 where an engine can come to it."""
        if (serving := self._serving(asked)) is not None:  # what is asked of one model is asked together
            return 0 if len(serving.collected) < TOGETHER else None
        return 1 if self._like(asked) or (self._may_start(asked) and self.can_make_room(need)) else None

    def _serving(self, asked: Resources) -> Engine | None:
        """The engine that serves what is asked for, or will next, and takes further steps now."""
        return self._ready.get((asked.engine, asked.state))  # type: ignore[arg-type]

    def _like(self, asked: Resources) -> Engine | None:
        """An idle engine that can serve what is asked for."""
        return next((each for each in self._idle if each.settings == asked.engine), None)

    def _may_start(self, asked: Resources) -> bool:
        """Whether there may be one more: of our own as many as there is room for, of others' one for each server."""
        settings: Any = asked.engine
        return not settings.external or self._unused(settings) != ""

    def _unused(self, settings: EngineSettings) -> str:
        """A server of others that no engine asks; empty where there is none."""
        used = {each.endpoint for each in self._all}
        return next((url for url in settings.evaluation.endpoints if url not in used), "")

    def can_make_room(self, need: Need) -> bool:
        """Whether there is so much room once idle engines are closed."""
        return self._room.has_without(need, [each.need for each in self._idle])

    def make_room(self, need: Need) -> None:
        """Close idle engines until there is room."""
        while not self._room.has(need) and self._idle:
            self._close(next(iter(self._idle)))

    def close_idle(self) -> None:
        """Close all idle engines: wherever they are they keep a machine from being free as a whole."""
        for engine in list(self._idle):
            self._close(engine)

    def _close(self, engine: Engine) -> None:
        ray.wait([engine.handle.close.remote()], timeout=CLOSES_WITHIN)
        self.drop(engine)

    def _start(self, asked: Resources, need: Need) -> Engine:
        """One more engine, on whichever node has room for it; all its accelerators are of one node."""
        settings: Any = asked.engine
        endpoint, name = self._unused(settings), settings.evaluation.key_env
        placed = replace(settings, endpoint=endpoint, tensor_parallel=max(1, asked.gpus))
        # As an argument: what Ray is told of an environment it writes into its logs.
        keys = {name: os.environ[name]} if settings.external and name in os.environ else {}
        self.make_room(need)
        self._room.take(need)
        actor: Any = ray.remote(EngineHost)
        options = {"num_cpus": need.cores, "num_gpus": need.gpus, "max_restarts": 0, "max_task_retries": 0}
        handle = actor.options(**options).remote(placed, self._logs, self._lend, keys)
        engine = Engine(asked, need, handle, asked.state, endpoint=endpoint)
        self._all.append(engine)
        self._idle.add(engine)
        return engine

    def collect(self, asked: Resources, need: Need, work: tuple[Step, Job]) -> None:
        """A step is to be given to the engine that fits best, which is started where there is none."""
        engine = self._serving(asked) or self._like(asked) or self._start(asked, need)
        self._collect(engine, [work], asked.state)

    def _collect(self, engine: Engine, work: Work, state: str) -> None:
        self._not_ready(engine)
        engine.state = state
        engine.collected += work
        self._ready[engine.settings, engine.state] = engine
        self._idle.discard(engine)

    def share(self) -> None:
        """Hand parts of what was collected for an engine to others that have nothing to do."""
        for engine in [each for each in self._all if len(each.collected) > 1]:
            others = list(itertools.islice(self._beside(engine), len(engine.collected) - 1))
            engine.collected, *parts = shares(engine.collected, 1 + len(others))
            for other, part in zip(others, parts, strict=True):
                self._collect(other, part, engine.state)

    def _beside(self, engine: Engine) -> Iterator[Engine]:
        """Engines that can help one: those with nothing to do; where it is to start itself, others with it."""
        yield from [each for each in self._idle if each.settings == engine.settings]
        while not engine.began and self._may_start(engine.asked) and self._room.has(engine.need):
            yield self._start(engine.asked, engine.need)

    def busy(self, engine: Engine, orders: int) -> None:
        """An engine has been given so many orders."""
        engine.orders += orders
        engine.began = True
        self._not_ready(engine)

    def _not_ready(self, engine: Engine) -> None:
        """An engine takes no further steps for its model as things are."""
        if self._ready.get((engine.settings, engine.state)) is engine:
            del self._ready[engine.settings, engine.state]

    def ended(self, engine: Engine) -> None:
        """An order of an engine has ended; after the last one it is idle, with its model."""
        engine.orders -= 1
        if not engine.orders and engine in self._all:
            self._idle.add(engine)
            self._ready[engine.settings, engine.state] = engine

    def drop(self, engine: Engine) -> None:
        """An engine is dead, or is to be."""
        if engine in self._all:
            self._all.remove(engine)
            self._idle.discard(engine)
            self._not_ready(engine)
            self._room.give_back(engine.need)
            ray.kill(engine.handle)

    def leave(self, alive: Collection[str]) -> None:
        """Drop idle engines whose nodes are gone."""
        for engine in [each for each in self._idle if each.node and each.node not in alive]:
            self.drop(engine)

    def close_all(self) -> None:
        """End all of them: those at work at once, idle ones as they do."""
        closing = [each.handle.close.remote() for each in self._idle]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSES_WITHIN)
        for each in list(self._all):
            self.drop(each)
