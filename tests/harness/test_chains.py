"""Steps that rest on one another, five thousand deep: more than Python's stack is."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from esft_bench.harness.execute.executor import Ended
from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.step import Parallelism, with_needs
from esft_bench.harness.store.artifacts import Artifact, DamagedError, Store
from tests.harness.drivers import Silent
from tests.harness.executors import Beside
from tests.harness.toys import Toy

DEPTH = 5000
DIGEST = "0f" * 32


@pytest.fixture
def chain():
    steps = [Toy("works", told="0")]
    while len(steps) < DEPTH:
        steps.append(Toy("works", (steps[-1],), str(len(steps))))
    assert len(steps) > 4 * sys.getrecursionlimit()
    return steps


class Elsewhere(SimpleNamespace):
    """A store in which another driver has left everything, once `all` is set."""

    all = False
    root = Path("store")

    def find(self, kind, key):
        return Artifact(self.root, kind, key, DIGEST, DIGEST) if self.all else None

    def check(self, artifact, *, again=False):
        raise DamagedError(artifact.name)


def test_what_the_end_of_a_chain_rests_on_is_known_each_once_and_in_order(chain):
    assert list(with_needs([chain[-1], chain[7]])) == chain
    again = Toy("works", (chain[-2],), chain[-1].told)
    assert again == chain[-1]
    assert Toy("works", (chain[-3],), chain[-1].told) != chain[-1]


def test_a_chain_that_another_driver_has_finished_is_found_and_one_that_is_damaged_falls(chain):
    store: Any = Elsewhere()
    graph = Graph([chain[-1]], store)
    assert graph.finished == set()
    store.all = True
    assert graph.put(chain[0], Artifact(store.root, "toy", DIGEST[:20], DIGEST, DIGEST)) == []
    assert len(graph.finished) == DEPTH
    assert graph.damaged(chain[1]) == [chain[0]]
    assert graph.finished == set()
    assert graph.is_ready(chain[0])


def test_all_that_rests_on_a_step_that_fails_fails_with_it(chain, tmp_path):
    class Fails(Beside):
        def wait(self):
            step, _ = self._started.popleft()
            return [Ended(step, {}, "it broke.")]

    wanted = [chain[-1]]
    failed = Schedule(Graph(wanted, Store(tmp_path)), Fails(), Silent(), Parallelism(), wanted).run()
    assert list(failed) == chain
    assert set(failed.values()) == {"it broke."}
