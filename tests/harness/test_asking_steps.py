"""Steps that ask for further steps, by what those they need have left."""

from dataclasses import dataclass
from typing import ClassVar

from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.step import Parallelism
from esft_bench.harness.store.artifacts import Store
from tests.harness.test_schedule import BASE, InOrder, Silent, walk
from tests.harness.toys import Toy

__all__ = ["walk"]


@dataclass(frozen=True, eq=False)
class Asking(Toy):
    """A toy that asks for `rounds` more toys, one after another, each told what the last one left."""

    kind: ClassVar[str] = "asking"
    rounds: int = 2

    def asks(self, inputs):
        left = [(artifact.folder / "text").read_text() for artifact in inputs.values()]
        return {f"round {n}": Toy("works", (BASE,), f"{n} {left[n]}") for n in range(min(len(left), self.rounds))}


def test_a_step_may_ask_for_more_steps_until_it_has_what_it_needs(walk):
    asking = Asking("works", (BASE,))
    first, second = (Toy("works", (BASE,), told) for told in ("0 w", "1 ww"))
    ran, failed, graph = walk(Toy("works", (asking,)))
    assert ran == [BASE, first, second, asking, Toy("works", (asking,))]
    assert failed == {}
    assert list(graph.needs(asking).values()) == [BASE, first, second]
    assert list(graph.artifacts[asking].manifest.inputs) == ["0", "round 0", "round 1"]


def test_what_a_step_asked_for_is_found_again_when_the_graph_is_built_anew(walk):
    asking = Asking("works", (BASE,))
    walk(asking)
    ran, _, graph = walk(asking)
    assert ran == []
    assert graph.finished == {BASE, asking, *graph.needs(asking).values()}


def test_a_step_fails_with_what_it_asked_for(walk):
    asking = Asking("works", (BASE,))
    second = Toy("works", (BASE,), "1 ww")
    ran, failed, _ = walk(asking, errors={second: "no"})
    assert asking not in ran
    assert failed.keys() == {second, asking}


def test_what_an_unwanted_step_asks_for_is_not_run(tmp_path):
    asking, executor = Asking("works", (BASE,)), InOrder()
    graph = Graph([asking], Store(tmp_path / "store"))
    Schedule(graph, executor, Silent(), Parallelism(), [BASE]).run()
    assert executor.ran == [BASE]


def test_a_step_asks_anew_when_what_it_went_by_was_damaged(walk):
    asking = Asking("works", (BASE,))
    graph = walk(asking)[2]
    (graph.artifacts[BASE].folder / "text").write_text("damaged")
    (graph.artifacts[asking].folder / "text").write_text("damaged")
    ran, failed, after = walk(asking)
    assert (ran, failed) == ([BASE, asking], {})
    assert asking in after.finished
