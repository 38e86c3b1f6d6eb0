"""The scheduler: walks a graph of steps, starting what is ready where there is room, and noting what failed.

It knows no kind of step by name and no machine. What runs where, and beside what, the executor says. Other schedulers
may walk graphs over the same store: each claims a step before it starts it, and waits for what another one makes.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from esft_bench.harness.execute.executor import Ended, Executor, Progressed
from esft_bench.harness.execute.ready import Place, Ready
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.step import Job, Parallelism, Step
from esft_bench.harness.store.artifacts import Artifact
from esft_bench.harness.store.leases import LOOK, Lease
from esft_bench.harness.store.manifest import Input, Manifest
from esft_bench.spec.errors import NoSpaceError, UserError
from esft_bench.spec.files import remove

SYNCS = 1.0
"""Seconds between two syncs: a machine that loses its power has so much of finished steps to do again."""


class Watcher(Protocol):
    """Who is told what happens."""

    def started(self, step: Step) -> None:
        """A step began."""

    def progressed(self, step: Step, done: int, total: int) -> None:
        """A step is so far."""

    def finished(self, step: Step, artifact: Artifact) -> None:
        """A step ended well, or was found finished."""

    def failed(self, step: Step, why: str) -> None:
        """A step failed, or what it rests on did."""

    def noted(self, text: str) -> None:
        """There is a sentence to say."""


@dataclass(frozen=True)
class _Started:
    """A step at work: the digests of what it reads, by role, the claim to make it, and its job."""

    reads: Mapping[str, str]
    lease: Lease
    job: Job


class Schedule:
    """One walk of a graph: finishes `wanted` and what they rest on, as far as nothing fails."""

    def __init__(
        self, graph: Graph, executor: Executor, watcher: Watcher, parallelism: Parallelism, wanted: Iterable[Step]
    ) -> None:
        self._graph, self._executor, self._watcher, self._parallelism = graph, executor, watcher, parallelism
        self._wanted = list(wanted)
        self._order: dict[Step, Place] = {}
        self._enlist()
        self._ready = Ready(executor)
        self._add(step for step in self._order if graph.is_ready(step))
        self._running: dict[Step, _Started] = {}
        self._elsewhere: set[Step] = set()
        self._looked = self._synced = 0.0
        self._makers = {graph.store.leases.me}
        self._mended: set[Step] = set()
        self.failed: dict[Step, str] = {}

    def run(self) -> dict[Step, str]:
        """Walk until nothing is left that could be done; returns the steps that failed and why.

        A step that fails does not stop the others, but for those that rest on it. One whose input is found damaged
        waits until that is made again, which happens once in a walk. Raises NoSpaceError, or the
        UserError of an engine that cannot serve at all, since they would meet every other step too.
        """
        try:
            while self._ready or self._running or self._elsewhere:
                self._start_what_fits()
                self._look_elsewhere()
                for event in self._executor.wait():
                    if isinstance(event, Progressed):
                        self._watcher.progressed(event.step, event.done, event.total)
                    else:
                        self._ended(event)
                self._sync_now_and_then()
            self._graph.store.sync()
        finally:
            self._executor.close()
            for started in self._running.values():
                started.lease.release()
            self._graph.store.leases.tidy()
        return self.failed

    def _sync_now_and_then(self) -> None:
        """Force it to the disk that steps are finished, which makes nobody wait where many are at once."""
        if time.monotonic() - self._synced > SYNCS:
            self._graph.store.sync()
            self._synced = time.monotonic()

    def _add(self, steps: Iterable[Step]) -> None:
        """Steps are ready."""
        for step in steps:
            self._ready.add(self._place(step), step)

    def _place(self, step: Step) -> Place:
        """Where a ready step stands: by the way that begins with it, but what is no work itself before all others.

        So what waits for it can begin (Johnson's rule for two machines: trainings on one, tests on the other).
        """
        way, number = self._order[step]
        return (-math.inf if step.size == 0 and step.resources.holds == "process" else way), number

    def _start_what_fits(self) -> None:
        while (step := self._ready.take()) is not None:
            if step in self._running or step in self.failed or not self._graph.is_ready(step) or self._mends(step):
                continue  # where it waits for what is made again, it is ready again then
            if (started := self._claimed(step)) is not None:
                self._running[step] = started
                self._watcher.started(step)
                self._executor.start(step, started.job)

    def _claimed(self, step: Step) -> _Started | None:
        """A step, claimed and ready to start; None where another driver makes it, or has made it."""
        key, store = self._graph.key(step), self._graph.store
        lease = store.claim(step.kind, key)
        if lease is None:
            self._elsewhere.add(step)
            return None
        self._elsewhere.discard(step)
        if self._taken(step, key):
            lease.lay_aside()
            return None
        return _Started(self._digests(step), lease, self._job(step, key))

    def _look_elsewhere(self) -> None:
        """See now and then how far others are: take what they have made, and what they let go of is ready again."""
        if not self._elsewhere or time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        for step in list(self._elsewhere):
            if not self._graph.is_ready(step):  # what it reads is made again
                self._elsewhere.discard(step)
                continue
            key = self._graph.key(step)
            maker = self._graph.store.maker(step.kind, key)
            if self._taken(step, key) or not maker:
                self._elsewhere.discard(step)
                self._add([step] if self._graph.is_ready(step) else [])
            elif maker not in self._makers:
                self._makers.add(maker)
                self._watcher.noted(f"{maker.capitalize()} is at work on the same steps: what it makes is waited for.")

    def _taken(self, step: Step, key: str) -> bool:
        """Take what another driver has made of a step, where it has."""
        found = self._graph.store.find_anew(step.kind, key)
        if found is None or not step.is_complete(found):
            return False
        self._put(step, found)
        return True

    def _mends(self, step: Step, *, again: bool = False) -> bool:
        """Whether something that a step reads is damaged; what made it is then to be done again."""
        damaged = self._graph.damaged(step, again=again)
        self._tell_news()
        for need in damaged:
            if need in self._mended:
                self._fail(need, "what it leaves is damaged again and again: check disk and memory.")
        self._add(need for need in damaged if need not in self._mended and self._graph.is_ready(need))
        self._mended.update(damaged)
        return bool(damaged)

    def _tell_news(self) -> None:
        """Pass on what the store has found damaged."""
        news = self._graph.store.news
        while news:
            self._watcher.noted(news.pop(0))

    def _job(self, step: Step, key: str) -> Job:
        store = self._graph.store
        inputs = self._graph.inputs(step)
        return Job(
            inputs={role: artifact.folder for role, artifact in inputs.items()},
            out=store.begin(step.kind, key),
            scratch=store.scratch(key),
            parallelism=self._parallelism,
            manifest=manifest_of(step, key, inputs, {}),
        )

    def _ended(self, event: Ended) -> None:
        started = self._running.pop(event.step)
        try:
            if event.no_space:
                raise NoSpaceError(event.error)
            self._conclude(event, started)
        finally:
            started.lease.lay_aside()

    def _conclude(self, event: Ended, started: _Started) -> None:
        """Keep what a step made, or see what becomes of it."""
        step, job = event.step, started.job
        if not started.lease.renew():  # this machine slept, and another driver has taken the step over
            remove(job.out)
            self._elsewhere.add(step)
            return
        astray = self._mends(step, again=bool(event.error)) or not self._is_ready_for(step, started.reads)
        if not (astray or event.error):
            self._finish(event, started)
            return
        remove(job.out)
        if astray:  # what it read is damaged, or was made again, and so what it would go on from is wrong, too
            remove(job.scratch)
            self._add([step] if self._graph.is_ready(step) else [])
        elif event.fatal:
            raise UserError(event.error)
        else:
            self._fail(step, event.error)

    def _digests(self, step: Step) -> dict[str, str]:
        """What a ready step would be started on."""
        return {role: artifact.digest for role, artifact in self._graph.inputs(step).items()}

    def _is_ready_for(self, step: Step, reads: Mapping[str, str]) -> bool:
        """Whether what a step was started on is still what it would be started on."""
        return self._graph.is_ready(step) and self._digests(step) == reads

    def _finish(self, event: Ended, started: _Started) -> None:
        """Put what a step made into the store."""
        assert started.job.manifest is not None
        manifest = started.job.manifest.model_copy(update={"measured": event.measured})
        self._put(event.step, self._graph.store.finish(started.job.out, manifest, event.sealed))

    def _put(self, step: Step, artifact: Artifact) -> None:
        """Note what a step left: what rests on it may be ready now."""
        ready = self._graph.put(step, artifact)
        self._watcher.finished(step, artifact)
        if any(each not in self._order for each in ready):
            self._enlist()
        self._add(each for each in ready if each in self._order)

    def _enlist(self) -> None:
        """Give steps their places: first those with the longest way to go, so that none of them is left for the end.

        Of equal ones those come first that the graph has first, and last what steps have asked for.
        """
        steps = [step for step in self._graph.with_needs(self._wanted) if step not in self._order]
        known = len(self._order)
        for number, step in reversed(list(enumerate(steps, known))):
            after = (self._order[other][0] for other in self._graph.dependents(step) if other in self._order)
            self._order[step] = min(after, default=0.0) - step.size, number

    def _fail(self, step: Step, why: str) -> None:
        """Note a failure, and that of all steps that rest on it."""
        for each in self._graph.resting_on(step):
            if each in self._order and each not in self.failed:
                self.failed[each] = why
                self._watcher.failed(each, why)


def manifest_of(step: Step, key: str, inputs: dict[str, Artifact], measured: dict[str, object]) -> Manifest:
    """What an artifact is and came from, but for its contents, which who seals it looks at."""
    files = {role: Input(digest=each.digest, path=str(each.path)) for role, each in step.contents.items()}
    made = {role: Input(digest=each.digest, kind=each.kind, key=each.key) for role, each in inputs.items()}
    return Manifest(
        kind=step.kind,
        key=key,
        label=step.label,
        digest="",
        inputs=files | made,
        settings=step.settings,
        sources=step.code.sources(),
        versions=step.code.versions(),
        measured=measured,
    )
