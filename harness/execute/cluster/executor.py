"""The executor of a cluster: processes are Ray tasks, engines actors that stay, judging runs in the driver's threads.

No model is in the driver. What it starts is within the room that it counts, so that the order of the steps is its own;
where each of them runs Ray decides. What a node takes with it is begun again on another.
"""

import itertools
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from esft_bench.harness.execute.child import PAUSE, Message, first_line
from esft_bench.harness.execute.cluster.alive import Alive
from esft_bench.harness.execute.cluster.attempts import Attempt, Tries
from esft_bench.harness.execute.cluster.engines import Engines
from esft_bench.harness.execute.cluster.node import Outcome, place_of
from esft_bench.harness.execute.cluster.post import Post
from esft_bench.harness.execute.cluster.room import Node, Room
from esft_bench.harness.execute.cluster.threads import Threads
from esft_bench.harness.execute.cluster.ways import Told, Ways
from esft_bench.harness.execute.executor import Ended, Progressed
from esft_bench.harness.execute.sharing import Work
from esft_bench.harness.steps.step import Job, Resources, Step
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import remove

SPARE = 64 * 2**20
"""Bytes that are free where a disk is not full."""


class RayExecutor:
    """Runs steps on the nodes of a cluster that this process is connected to; `nodes` says which are alive."""

    def __init__(self, nodes: Callable[[], Sequence[Node]], told: Told, ways: Ways | None = None) -> None:
        self._told, self._ways = told, ways or Ways()
        self._alive = Alive(nodes, self._ways.head_answers)
        self._room = Room(self._alive.nodes)
        self._engines = Engines(told.folder / "server", self._ways.lend, self._room)
        self._post = Post()
        self._running: dict[Any, Attempt] = {}
        self._by_token: dict[int, Attempt] = {}
        self._again: deque[tuple[float, tuple[Step, Job, str]]] = deque()
        self._tries = Tries(self._ways.tries)
        self._tokens = itertools.count()
        self._threads = Threads(told.judges, told.batches)
        self._seen: Sequence[Node] = ()
        self._worked = time.monotonic()
        self._served = self._starves = False
        self._gathers: set[int] = set()

    @property
    def log(self) -> Path:
        """Where all that is not for the user's eyes is written."""
        return self._told.folder / "esft-bench.log"

    def asks(self, step: Step) -> Resources:
        """What a step says, with the accelerators that it takes of these."""
        asked, gpus = step.resources, self._ways.gpus(step)
        return asked if gpus == asked.gpus else replace(asked, gpus=gpus)

    @property
    def states(self) -> Collection[str]:
        """See `Executor.states`."""
        return self._engines.states

    def fit(self, asked: Resources) -> int | None:
        """0 where a step can start as things are, 1 where an engine has to change, start or go, None for no room."""
        if self._threads.take(asked):
            return self._threads.fit(asked)
        need = self._room.need(asked)
        if self._gathers:
            return None  # what a step that waits for several machines has them free for
        if asked.holds == "engine":
            found = self._engines.fit(asked, need)
        else:
            found = 0 if self._room.has(need) else 1 if self._engines.can_make_room(need) else None
        self._starves = self._starves or found is None
        return found

    def start(self, step: Step, job: Job) -> None:
        """Begin a step on a node, with an engine, or in a thread."""
        if self._threads.take(step.resources):
            self._threads.start(step, job)
        else:
            self._begin(step, job)

    def _begin(self, step: Step, job: Job, not_on: str = "") -> None:
        asked = self.asks(step)
        need = self._room.need(asked)
        if asked.holds == "engine":
            self._engines.collect(asked, need, (step, job))
            return
        self._engines.make_room(need)
        self._room.take(need)
        job = replace(job, parallelism=replace(job.parallelism, processes=max(1, asked.gpus)))
        attempt = self._attempt([(step, job)], need=need)
        if need.machines > 1:
            self._gathers.add(attempt.token)
        self._running[self._post.task(attempt.token, attempt.work, need, not_on)] = attempt

    def _attempt(self, work: Work, **more: Any) -> Attempt:
        attempt = Attempt(next(self._tokens), work, **more)
        self._by_token[attempt.token] = attempt
        return attempt

    def wait(self) -> Sequence[Progressed | Ended]:
        """What nodes and threads had to say; waits a fifth of a second where they had nothing."""
        events: list[Progressed | Ended] = list(self._look())
        self._give()
        for ref in self._over():
            if ref in self._running:  # or else it went with its engine
                events += self._ended(self._running.pop(ref), ref)
        events += [event for token, said in self._post.letters() for event in self._heard(token, said)]
        events += self._threads.said(waits=not (events or self._running))
        self._give_up()
        self._start_again()
        return events

    def _look(self) -> Iterator[Ended]:
        """See which nodes are alive; a cluster without room for anything is not waited for for ever."""
        now, alive = time.monotonic(), self._alive.nodes
        if self._running or self._threads.any or not self._starves:
            self._worked = now
        elif now - self._worked > self._ways.patience:
            raise UserError("No node of the cluster has room for what is left to do: see `ray status`.")
        self._starves = False
        if alive is not self._seen:
            self._seen = alive
            self._room.look(alive)
            yield from self._leave({node.id for node in alive})
            if self._gathers:
                self._engines.close_idle()

    def _leave(self, alive: Collection[str]) -> Iterator[Ended]:
        """Begin anew what was at work on nodes that are gone, or was to go there: Ray takes minutes to notice."""
        for ref, attempt in list(self._running.items()):
            why = attempt.lost_with(alive, self._room)
            if why and self._running.pop(ref, None) is not None:
                if not attempt.place:
                    self._post.end(ref, attempt.engine.handle if attempt.engine else None)
                yield from self._lost(attempt, why)
        self._engines.leave(alive)

    def _give(self) -> None:
        """Have engines run what was collected."""
        self._engines.share()
        for engine in self._engines:
            orders = list(engine.give()) if engine.collected else []
            for work in orders:
                attempt = self._attempt(work, engine=engine)
                self._running[self._post.to_engine(engine.handle, attempt.token, work)] = attempt
            if orders:
                self._engines.busy(engine, len(orders))

    def _over(self) -> Sequence[Any]:
        """The orders that are over, as they were given; waits for one, but not long where threads may have to say."""
        over = self._post.over(list(self._running), PAUSE / 4 if self._threads.any else PAUSE)
        return sorted(over, key=lambda ref: self._running[ref].token)

    def _ended(self, attempt: Attempt, ref: Any) -> Iterator[Progressed | Ended]:
        """An order is over, one way or the other."""
        try:
            outcome: Outcome = ray.get(ref)
        except RayTaskError as error:  # a defect of ours, or of a node's environment
            self._write(str(error))
            self._free(attempt)
            why = f"a node could not run it: {type(error.cause).__name__}: {first_line(error.cause)}"
            yield from (Ended(step, {}, why) for step, _ in attempt.work)
        except RayError as error:
            for token, said in self._post.last_letters():  # how far it was decides whether it was in vain
                yield from self._heard(token, said)
            yield from self._lost(attempt, attempt.why or first_line(error) or type(error).__name__)
        else:
            self._write(outcome.printed)
            self._free(attempt)
            for said in outcome.ended:
                yield from self._settled(attempt, said)

    def _free(self, attempt: Attempt) -> None:
        """What an attempt held is free again."""
        self._by_token.pop(attempt.token, None)
        self._post.is_over(attempt.token)
        self._gathers.discard(attempt.token)
        if attempt.need is not None:
            self._room.give_back(attempt.need)
        if attempt.engine is not None:
            self._engines.ended(attempt.engine)

    def _settled(self, attempt: Attempt, said: Message) -> Iterator[Progressed | Ended]:
        """A step ended: what it built is put where the run expects it."""
        step, job = attempt.work[said.place]
        built = place_of(job, attempt.token)
        elsewhere = said.no_space and shutil.disk_usage(job.out.parent).free > SPARE  # it is a disk of the node's own
        if said.lost or elsewhere:
            self._tries.lost(attempt)
            if not self._tries.exhausted(step):
                yield from self._once_more(attempt, said.place, said.error)
                return
        if said.error:
            remove(built)
        else:
            built.rename(job.out)
        self._tries.forget(step)
        self._served = self._served or (attempt.engine is not None and not said.error)
        # An engine that never served ends the run, unless others serve: then it is its node that cannot.
        yield replace(said, fatal=said.fatal and not self._served).of(step)

    def _lost(self, attempt: Attempt, why: str) -> Iterator[Ended]:
        """A node, a worker or an engine is gone, and with it what it was doing, which is begun again elsewhere."""
        lost = {attempt.token: attempt}
        if attempt.engine is not None:
            ours = {ref: each for ref, each in self._running.items() if each.engine is attempt.engine}
            for ref, each in ours.items():
                lost[each.token] = each
                del self._running[ref]
            self._engines.drop(attempt.engine)
        first = lost[min(lost)]  # what an engine was at; the others had not begun
        self._tries.lost(first)
        for each in lost.values():
            self._free(each)
            for place in range(len(each.work)):
                yield from self._once_more(each, place, why)

    def _once_more(self, attempt: Attempt, place: int, why: str) -> Iterator[Ended]:
        step, job = attempt.work[place]
        remove(place_of(job, attempt.token))
        if self._tries.exhausted(step):
            yield Ended(step, {}, f"it was lost {self._ways.tries} times, the last time because {why}")
            return
        self._write(f"--- {step.label}: {why}; it goes on elsewhere\n")
        self._again.append((time.monotonic(), (step, job, attempt.place)))

    def _heard(self, token: int, said: Any) -> Iterator[Progressed | Ended]:
        """An order that is at work said something."""
        attempt = self._by_token.get(token)
        if attempt is None:
            return
        attempt.heard = time.monotonic()
        if isinstance(said, Message):
            attempt.done[said.place] = max(attempt.done[said.place], said.done)
            yield said.of(attempt.work[said.place][0])
        else:
            attempt.begun_on(said.node, said.process)
            self._gathers.discard(token)

    def _give_up(self) -> None:
        """End what has said nothing for too long, and what waits for nodes that it will not get."""
        alone = not any(attempt.node for attempt in self._running.values())
        for ref, attempt in self._running.items():
            if not attempt.why and (why := attempt.hopeless(self._ways.patience, self._room, alone)):
                attempt.why = why
                self._post.end(ref, attempt.engine.handle if attempt.engine else None)
                if attempt.node:
                    self._post.kill(attempt.node, attempt.process)

    def _start_again(self) -> None:
        """Begin what was lost, before anything new."""
        for _ in range(len(self._again)):
            lost, again = self._again[0]
            if not self._alive.has_ended(lost, again[2]):
                self._again.rotate(-1)
            elif self.fit(self.asks(again[0])) is None:
                return
            else:
                self._again.popleft()
                self._begin(*again)

    def _write(self, text: str) -> None:
        """Write to the log."""
        if text:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(text)

    def close(self) -> None:
        """End every order, the engines and the judging at once; scratch folders stay for the next run.

        Where the cluster's head is gone there is nobody who could be asked to: nodes end what is left without it.
        """
        self._threads.close()
        self._alive.close()
        if self._alive.lost:
            return
        for ref, attempt in self._running.items():
            if attempt.engine is None:
                self._post.end(ref)
        self._running.clear()
        self._engines.close_all()
        self._post.close()
