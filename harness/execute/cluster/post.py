"""Orders on their way to nodes, and what these say before they are over."""

import threading
import time
from collections.abc import Sequence
from itertools import chain
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from esft_bench.harness.execute.child import PAUSE
from esft_bench.harness.execute.cluster.group import gather, within
from esft_bench.harness.execute.cluster.node import Mailbox, Order, carry_out, kill
from esft_bench.harness.execute.cluster.room import Need
from esft_bench.harness.execute.sharing import Work

ANSWERS_WITHIN = 30.0
"""Seconds after which the mailbox is taken to be lost."""


class Post:
    """Sends orders, and keeps a mailbox on the driver's own node."""

    def __init__(self) -> None:
        remote: Any = ray.remote
        self._light = remote(max_calls=0, max_retries=0)(carry_out)  # its processes are used again
        self._heavy = remote(max_calls=1, max_retries=0)(carry_out)  # an accelerator's memory is free when it is over
        self._kill = remote(num_cpus=0, max_retries=0)(kill)
        self._here = ray.get_runtime_context().get_node_id()
        self._mailbox = self._open()
        self._emptied = 0.0
        self._asked: Any = None
        self._groups: dict[int, PlacementGroup] = {}

    def _open(self) -> Any:
        here = NodeAffinitySchedulingStrategy(self._here, soft=True)
        actor: Any = ray.remote(Mailbox)
        return actor.options(num_cpus=0, scheduling_strategy=here).remote()

    def task(self, token: int, work: Work, need: Need, not_on: str = "") -> Any:
        """Have a node run steps in a process; where they take several, the first of these."""
        function = self._heavy if need.gpus else self._light
        group, where = None, self._elsewhere(not_on)
        if need.machines > 1:
            group = self._groups[token] = gather(need)
            where = within(group, 0)
        options = {"num_cpus": need.each.cores, "num_gpus": need.each.gpus, "scheduling_strategy": where}
        return function.options(**options).remote(Order(token, work, self._mailbox, group=group))

    def is_over(self, token: int) -> None:
        """Give back the machines of an order, where it had several."""
        if group := self._groups.pop(token, None):  # nobody waits: Ray's head may be gone
            threading.Thread(target=remove_placement_group, args=(group,), daemon=True).start()

    def to_engine(self, engine: Any, token: int, work: Work) -> Any:
        """Have an engine run steps."""
        return engine.carry_out.remote(Order(token, work, self._mailbox))

    def _elsewhere(self, node: str) -> Any:
        """Another node than this one, if there is one with room."""
        if not node:
            return "DEFAULT"
        others = [each["NodeID"] for each in ray.nodes() if each["Alive"] and each["NodeID"] != node]
        able = [each for each in others if each != self._here] or others
        if not able:
            return "DEFAULT"
        return NodeAffinitySchedulingStrategy(able[0], soft=True, _spill_on_unavailable=True)

    def over(self, orders: list[Any], seconds: float) -> Sequence[Any]:
        """Those of the orders that are over; waits for one so long."""
        if not orders or not ray.wait(orders, num_returns=1, timeout=seconds)[0]:
            return ()
        ready: Sequence[Any] = ray.wait(orders, num_returns=len(orders), timeout=0)[0]
        return ready

    def letters(self) -> list[tuple[int, Any]]:
        """What was said, asked for every fifth of a second; the answer is not waited for: nodes wait for the driver."""
        now = time.monotonic()
        if self._asked is None and now - self._emptied >= PAUSE:
            self._asked, self._emptied = self._mailbox.take.remote(), now
        if self._asked is None:
            return []
        letters: list[tuple[int, Any]] = []
        try:
            if not ray.wait([self._asked], timeout=0)[0]:
                if now - self._emptied < ANSWERS_WITHIN:
                    return []
                raise GetTimeoutError
            letters = ray.get(self._asked)
        except RayError:
            self._mailbox = self._open()
        self._asked = None
        return letters

    def last_letters(self) -> list[tuple[int, Any]]:
        """All that was said until now, waited for."""
        asked = [self._asked] if self._asked is not None else []
        self._asked = None
        try:
            return list(chain.from_iterable(ray.get([*asked, self._mailbox.take.remote()], timeout=ANSWERS_WITHIN)))
        except RayError:
            self._mailbox = self._open()
            return []

    def end(self, order: Any, engine: Any = None) -> None:
        """End an order's process at once, or the engine that has it."""
        if engine is not None:
            ray.kill(engine)
        else:
            ray.cancel(order, force=True)

    def kill(self, node: str, process: int) -> None:
        """Kill a process of a node: one that hangs may do nothing that Ray asks of it."""
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        self._kill.options(scheduling_strategy=there).remote(process)

    def close(self) -> None:
        """No more orders."""
        for token in list(self._groups):
            self.is_over(token)
        ray.kill(self._mailbox)
