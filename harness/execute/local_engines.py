"""The engines of one machine: one of our own, which holds its accelerators, and processes that ask others' servers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from esft_bench.harness.execute.engine_host import Host, host_engine
from esft_bench.harness.execute.executor import TOGETHER
from esft_bench.harness.execute.sharing import Work, shares
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Job, Resources, Step


class EngineProcess:
    """The process that holds an engine, and what that serves. `settings` are as steps ask for them."""

    def __init__(self, context: Any, settings: EngineSettings, host: Host) -> None:
        self.pipe, theirs = context.Pipe()
        self.settings, self.endpoint = settings, host.engine.endpoint
        self.state = ""
        self.busy = False
        self.starting = host.ahead is not None
        self.collected: Work = []
        self.process = context.Process(target=host_engine, args=(host, theirs), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do."""
        return not (self.busy or self.collected)

    def serves(self, asked: Resources) -> bool:
        """Whether it serves the model that is asked for, or will next."""
        return self.settings == asked.engine and self.state == asked.state

    def give(self) -> list[Step]:
        """Have it run what was collected; returns these steps, in their places."""
        work, self.collected, self.busy = self.collected, [], True
        self.pipe.send(work)
        return [step for step, _ in work]

    def close(self) -> None:
        """Let the engine close itself; a process that does not end is killed, and its server dies with it."""
        self.pipe.close()
        self.process.join(timeout=0 if self.starting else 15)  # one that starts a server hears of nothing
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@dataclass(frozen=True)
class Making:
    """How engines are made: the context of processes, where they and the run log, threads, accelerators of our own."""

    context: Any
    logs: Path
    log: Path
    threads: int
    tensor_parallel: int = 1


class LocalEngines:
    """All of them: at most one of our own, and one for each server of others."""

    def __init__(self, making: Making) -> None:
        self._making = making
        self._all: list[EngineProcess] = []

    @property
    def own(self) -> EngineProcess | None:
        """The one that holds this machine's accelerators."""
        return next((each for each in self._all if not each.settings.external), None)

    @property
    def states(self) -> set[str]:
        """What is served, or will be next."""
        return {each.state for each in self._all}

    def of(self, process: Any) -> EngineProcess:
        """The engine of a process."""
        return next(each for each in self._all if each.process is process)

    @property
    def starting(self) -> dict[Any, EngineProcess]:
        """Those that start a server ahead, by their pipes."""
        return {each.pipe: each for each in self._all if each.starting}

    def start_ahead(self, settings: EngineSettings, checkpoint: Path) -> None:
        """Start one of our own before any step asks for it."""
        self._start(settings, checkpoint)

    def fit(self, asked: Resources) -> int | None:
        """0 where an engine serves what is asked for and can take it, 1 where one has to change or start, or None."""
        if self._taking(asked):
            return 0
        beside = self._beside(asked)
        return 1 if len(beside) < _most(asked) or any(each.idle for each in beside) else None

    def collect(self, step: Step, job: Job) -> None:
        """Keep a step for the engine that fits best, which is started where there is none."""
        asked = step.resources
        engine = self._taking(asked) or self._free(asked)
        engine.state = asked.state
        engine.collected.append((step, job))

    def _beside(self, asked: Resources) -> list[EngineProcess]:
        """Those that take what an engine that is asked for takes."""
        settings = cast(EngineSettings, asked.engine)
        return [each for each in self._all if each.settings.external == settings.external]

    def _taking(self, asked: Resources) -> EngineProcess | None:
        """An engine that collects for the model, or has it and nothing to do."""
        able = [each for each in self._all if each.serves(asked) and not each.busy and len(each.collected) < TOGETHER]
        return max(able, key=lambda each: len(each.collected), default=None)

    def _free(self, asked: Resources) -> EngineProcess:
        """An engine with nothing to do, started where there is none; of our own, one with other settings goes."""
        beside = self._beside(asked)
        found = next((each for each in beside if each.idle and each.settings == asked.engine), None)
        if found is None and len(beside) == _most(asked):
            self.close(next(each for each in beside if each.idle))
        return found or self._start(cast(EngineSettings, asked.engine))

    def _start(self, settings: EngineSettings, ahead: Path | None = None) -> EngineProcess:
        making = self._making
        used = {each.endpoint for each in self._all}
        endpoint = next((url for url in settings.evaluation.endpoints if url not in used), "")
        placed = replace(settings, endpoint=endpoint, tensor_parallel=making.tensor_parallel)
        host = Host(placed, making.logs, making.log, making.threads, ahead)
        engine = EngineProcess(making.context, settings, host)
        self._all.append(engine)
        return engine

    def give(self) -> Iterator[tuple[EngineProcess, list[Step]]]:
        """Have engines run what was collected, shared out among those that have nothing to do; says what each runs."""
        for engine in [each for each in self._all if each.collected]:
            self._share(engine)
        for engine in self._all:
            if engine.collected:
                yield engine, engine.give()

    def _share(self, engine: EngineProcess) -> None:
        """Hand a part of what was collected for an engine to each that is idle, or that can be started."""
        asked = engine.collected[0][0].resources
        idle = [each for each in self._all if each.idle and each.settings == engine.settings]
        unused = _most(asked) - len(self._beside(asked))
        first, *others = shares(engine.collected, 1 + len(idle) + unused)
        engine.collected = first
        for part in others:
            other = idle.pop() if idle else self._start(engine.settings)
            other.state, other.collected = engine.state, part

    def close(self, engine: EngineProcess) -> None:
        """End an engine."""
        self._all.remove(engine)
        engine.close()

    def close_own(self) -> None:
        """End our own, so that its memory is free."""
        if self.own is not None:
            self.close(self.own)

    def close_all(self) -> None:
        """End all of them."""
        for engine in list(self._all):
            self.close(engine)


def _most(asked: Resources) -> int:
    """How many engines there may be of a kind."""
    return len(cast(EngineSettings, asked.engine).evaluation.endpoints) or 1
