"""Machines for one step that no node has room for: equal parts of several nodes, all at once or none.

Ray holds them as a placement group. The step's own process is on the first; it has the others work by tasks, which Ray
ends with it, as it ends both with the driver or when the group is given back.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from esft_bench.harness.execute.child import first_line
from esft_bench.harness.execute.cluster.printed import caught, end_of
from esft_bench.harness.execute.cluster.room import Need
from esft_bench.harness.training.together.machines import Call, LostError

LOOKS = 5.0
"""Seconds between two looks at whether another machine is still there."""


def gather(need: Need) -> PlacementGroup:
    """Ask for the machines of a need; what is to run there waits for them."""
    bundle = {"CPU": need.each.cores, "GPU": need.each.gpus}
    asked = {name: float(count) for name, count in bundle.items() if count}
    return placement_group([asked] * need.machines, strategy="STRICT_SPREAD")


def within(group: PlacementGroup, place: int) -> PlacementGroupSchedulingStrategy:
    """Where to run something: on the machine of a place in the group."""
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)


class Group:
    """The machines of a step, as its own process has them; see `Machines`."""

    def __init__(self, group: PlacementGroup) -> None:
        self._group = group
        self._begun: list[Any] = []

    @property
    def count(self) -> int:
        """How many they are, with this one."""
        count: int = self._group.bundle_count
        return count

    @property
    def address(self) -> str:
        """This machine's, as its node has it in the cluster."""
        address: str = ray.util.get_node_ip_address()
        return address

    def begin(self, calls: Sequence[Call]) -> Sequence[Future[Any]]:
        """Have each of the others do one thing, in a process of its own."""
        remote: Any = ray.remote(max_calls=1, max_retries=0)(_printing)
        nodes = placement_group_table(self._group)["bundles_to_node_id"]
        for place, (call, bundle) in enumerate(zip(calls, self._group.bundle_specs[1:], strict=True), 1):
            taken = {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0)}
            told = remote.options(**taken, scheduling_strategy=within(self._group, place)).remote(call)
            self._begun.append(told)
        pool = ThreadPoolExecutor(len(calls))
        return [pool.submit(_outcome, ref, nodes[place]) for place, ref in enumerate(self._begun, 1)]

    def end(self) -> None:
        """End at once what others still do."""
        for ref in self._begun:
            ray.cancel(ref, force=True)


def _printing(call: Call) -> tuple[Any, str]:
    """What a call returns, and what it printed: that belongs into the log of the step."""
    with caught() as printed:
        return call(), end_of(printed)


def _outcome(ref: Any, node: str) -> Any:
    """What another machine returned.

    Ray itself takes minutes to give up what it asked a node that is cut off, though the cluster knows that it is gone.
    """
    while not ray.wait([ref], timeout=LOOKS)[0]:
        if not any(each["Alive"] for each in ray.nodes() if each["NodeID"] == node):
            raise LostError("another machine of it is gone")
    try:
        result, printed = ray.get(ref)
    except RayTaskError:
        raise  # a defect of ours, or of that node's environment
    except RayError as error:
        raise LostError(f"another machine of it was lost: {first_line(error) or type(error).__name__}") from error
    print(printed, end="", flush=True)
    return result
