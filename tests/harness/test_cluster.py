"""Steps on the nodes of a cluster: what comes back, what dies and goes on elsewhere, what is never lost."""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

import ray

from esft_bench.harness.execute.cluster import alive as alive_module
from esft_bench.harness.execute.cluster.checks import check_nodes
from esft_bench.harness.execute.cluster.connect import nodes
from esft_bench.harness.execute.cluster.executor import RayExecutor
from esft_bench.harness.execute.cluster.room import Node
from esft_bench.harness.execute.executor import Ended, Progressed
from tests.harness.nodes import Afar, Frail, add_node, cluster, executor, kill, naps, walk
from tests.harness.toys import Toy, job


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two nodes of one core, which this process drives."""
    made = cluster(2)
    ray.init(made.address, logging_level="ERROR", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def end(two_nodes, tmp_path):
    """Runs one step to its end; returns how it ended, the progress it made and the log."""

    def run(step, **ways):
        here = executor(tmp_path, **ways)
        assert here.fit(here.asks(step)) is not None
        here.start(step, job(tmp_path / "job"))
        seen: list[Ended | Progressed] = []
        while not seen or not isinstance(seen[-1], Ended):
            seen += here.wait()
        here.close()
        assert [path.name for path in (tmp_path / "job").iterdir() if path.name.startswith("out")] == ["out"]
        return (
            seen[-1],
            [each for each in seen if isinstance(each, Progressed)],
            here.log.read_text() if here.log.exists() else "",
        )

    return run


def test_a_step_comes_back_with_what_it_made_measured_and_printed(end, tmp_path):
    ended, _, log = end(Toy("works", told="hello"))
    assert ended.measured["said"] == "hello"
    assert ended.measured["pid"] != os.getpid()
    assert (tmp_path / "job" / "out" / "text").read_text() == "w"
    assert "a line for the log" in log


def test_errors_come_back_as_they_do_on_one_machine(end):
    ended, _, log = end(Toy("breaks"))
    assert ended.error == "RuntimeError: boom"
    assert "Traceback" in log


def test_judges_are_asked_in_the_driver(end):
    assert end(Toy("works", told="hello", holds="network"))[0].measured["pid"] == os.getpid()


@pytest.mark.parametrize("holds", ["process", "engine"])
def test_a_step_whose_worker_is_killed_goes_on_elsewhere_and_finds_nothing_half_made(end, tmp_path, holds):
    ended, _, log = end(Frail("dies_once", told="x", holds=holds))
    assert (ended.error, "goes on elsewhere" in log) == ("", True)
    assert [path.name for path in (tmp_path / "job" / "out").iterdir()] == ["text"]


@pytest.mark.parametrize(
    ("holds", "does"), [("process", "stops_once"), ("engine", "hangs_once"), ("engine", "stops_once")]
)
def test_a_step_that_says_nothing_for_too_long_is_begun_again(end, holds, does):
    ended, _, log = end(Frail(does, told="x", holds=holds), patience=1.0)
    assert (ended.error, "said nothing" in log) == ("", True)


def test_a_step_that_dies_each_time_fails_after_some_tries(end):
    ended, _, log = end(Toy("dies"), tries=2)
    assert "lost 2 times" in ended.error
    assert log.count("goes on elsewhere") == 1


def test_a_step_that_gets_further_each_time_is_not_given_up(end):
    ended, seen, _ = end(Frail("goes_on", told="x"), tries=2)
    assert (ended.error, ended.measured) == ("", {"tries": 4})
    assert {1, 2, 3} <= {each.done for each in seen}


def test_a_disk_that_is_full_on_a_node_alone_is_no_end_before_other_tries(end):
    ended, _, log = end(Toy("fills_the_disk"), tries=2)
    assert (ended.no_space, log.count("goes on elsewhere")) == (True, 1)


def test_nodes_have_this_environment_and_see_the_store(two_nodes, tmp_path):
    seen = check_nodes(nodes(), tmp_path / "store", [tmp_path], ["torch"])
    assert len(seen) == 3
    assert not list((tmp_path / "store" / ".work" / "nodes").iterdir())


def contents(folder: Path) -> dict[str, str]:
    """What artifacts hold, by what made them."""
    return {path.parent.name: path.read_text() for path in (folder / "store").glob("frail/[!.]*/text")}


def test_nodes_that_are_killed_at_any_moment_lose_nothing(two_nodes, tmp_path, monkeypatch):
    """Two of three nodes are killed while steps are at work, and others take their place."""
    monkeypatch.setattr(alive_module, "OVER", 0.5)  # they are not cut off
    draw = random.Random(0)
    alive = [add_node(two_nodes)]
    at = sorted(draw.sample(range(4, 40), 2))

    def strike(ended: int) -> None:
        if ended in at:
            kill(alive.pop())
            alive.append(add_node(two_nodes))

    wanted = naps(40)
    watcher, failed = walk(tmp_path, wanted, strike, tries=20)
    assert failed == {}
    assert len(watcher.ended) == 44
    assert len({artifact.measured["node"] for artifact in watcher.ended.values()}) > 1
    assert sorted(contents(tmp_path).values()) == ["n"] * 4 + ["nn"] * 40
    for node in alive:
        kill(node)


def test_a_driver_that_is_killed_and_started_again_goes_on(two_nodes, tmp_path):
    driver = [sys.executable, "-m", "tests.harness.nodes", two_nodes.address, str(tmp_path), "40"]
    first = subprocess.Popen(driver, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(contents(tmp_path)) < 10:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.kill()
    first.wait()
    before = len(contents(tmp_path))
    watcher, failed = walk(tmp_path, naps(40))
    assert failed == {}
    assert len(contents(tmp_path)) == 44
    assert len(watcher.begun) == len(watcher.ended) == 44 - before


def test_one_model_is_asked_on_several_engines_where_these_have_nothing_else_to_do(two_nodes, tmp_path):
    asked = [Frail("sees", told=f"{number}", holds="engine", model="a") for number in range(4)]
    watcher, failed = walk(tmp_path, asked)
    pids = [artifact.measured["pid"] for artifact in watcher.ended.values()]
    assert (failed, sorted(pids.count(pid) for pid in set(pids))) == ({}, [2, 2])


@pytest.mark.timeout(90)
def test_engines_that_wait_for_a_node_that_is_gone_leave_their_steps_to_others(two_nodes, tmp_path):
    over = threading.Event()

    def seen() -> list[Node]:
        return [*nodes(), *([] if over.is_set() else [Node("gone", "gone", 2, 0)])]

    asked = [Frail("sees", told=model, holds="engine", model=model) for model in "abcd"]
    watcher, failed = walk(tmp_path, asked, at=lambda ended: over.set() if ended == 2 else None, seen=seen)
    assert (failed, set(watcher.ended)) == ({}, set(asked))
    assert len({artifact.measured["pid"] for artifact in watcher.ended.values()}) == 2


def test_servers_of_others_are_asked_by_one_engine_each_with_a_key_that_ray_does_not_log(
    two_nodes, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLLM_API_KEY", "sk-known-to-the-driver")
    asked = [Afar("sees", told=f"{number}", holds="engine", model="a") for number in range(3)]
    watcher, failed = walk(tmp_path, asked)
    assert failed == {}
    seen = [artifact.measured for artifact in watcher.ended.values()]
    assert {each["endpoint"] for each in seen} == {"http://one", "http://two"}
    assert {each["key"] for each in seen} == {"sk-known-to-the-driver"}
    assert {each["devices"] for each in seen} == {""}
    logs = Path(two_nodes.head_node.get_logs_dir_path())
    assert not [path for path in logs.rglob("*") if path.is_file() and b"sk-known" in path.read_bytes()]


def test_steps_take_the_accelerators_they_need_and_an_idle_engine_makes_room(two_nodes, tmp_path):
    node = add_node(two_nodes, num_cpus=2, num_gpus=2)
    light = Frail("sees", told="light", holds="network")
    small = Frail("sees", (light,), "small")
    asked = Frail("sees", (small,), "asked", "engine", "small")
    wide = Frail("sees", (asked,), "wide")
    watcher, failed = walk(tmp_path, [wide], gpus=lambda step: 2 if step in (asked, wide) else step.resources.gpus)
    assert failed == {}
    seen = {step: artifact.measured for step, artifact in watcher.ended.items()}
    assert seen[small]["processes"] == 1
    assert (len(seen[small]["devices"].split(",")), len(seen[asked]["devices"].split(","))) == (1, 2)
    assert seen[asked]["tensor_parallel"] == 2
    assert (sorted(seen[wide]["devices"].split(",")), seen[wide]["processes"]) == (["0", "1"], 2)
    kill(node)


def test_a_step_takes_parts_of_two_nodes_where_an_idle_engine_kept_one_from_being_free(two_nodes, tmp_path):
    made = [add_node(two_nodes, num_cpus=3, num_gpus=3) for _ in range(2)]
    asked = Frail("sees", told="asked", holds="engine", model="a")
    wide = Frail("meets", (asked,), "wide")
    watcher, failed = walk(tmp_path, [wide], gpus=lambda step: 4 if step is wide else 2)
    assert failed == {}
    seen = watcher.ended[wide].measured
    assert set(seen["nodes"]) == {node.node_id for node in made}
    assert (len(seen["nodes"]), seen["processes"]) == (2, 4)
    assert seen["address"] in {node.node_ip_address for node in made}
    log = (tmp_path / "esft-bench.log").read_text()
    assert all(f"on {node}" in log for node in seen["nodes"])
    for node in made:
        kill(node)


@pytest.mark.parametrize("ghosts", [(4,), (2, 2)])
def test_a_step_that_waits_for_nodes_which_are_gone_begins_on_others(two_nodes, tmp_path, ghosts):
    there = [Node(str(number), "", size, size) for number, size in enumerate(ghosts)]
    here: RayExecutor = executor(tmp_path, seen=lambda: list(there), gpus=lambda step: 4)
    here.start(Frail("meets", told="x"), job(tmp_path / "job"))
    there[:] = [Node("small", "", 1, 1)]
    while not here.log.exists():
        assert not here.wait()
    assert "what it waited for is gone; it goes on elsewhere" in here.log.read_text()
    node = add_node(two_nodes, num_cpus=4, num_gpus=4)
    there[:] = nodes()
    seen: list[Ended | Progressed] = []
    while not seen:
        seen += here.wait()
    here.close()
    (ended,) = [each for each in seen if isinstance(each, Ended)]
    assert (ended.error, ended.measured["nodes"]) == ("", [node.node_id])
    kill(node)


class Holder:
    """An actor of somebody else's."""

    def is_there(self) -> bool:
        return True


def test_a_step_whose_nodes_others_keep_is_not_waited_for_for_ever(two_nodes, tmp_path):
    made = [add_node(two_nodes, num_cpus=3, num_gpus=2) for _ in range(2)]
    other = ray.remote(num_gpus=1)(Holder).remote()
    ray.get(other.is_there.remote())
    _, failed = walk(tmp_path, [Frail("meets", told="x")], gpus=lambda step: 4, patience=1.0, tries=2)
    (why,) = failed.values()
    assert why == "it was lost 2 times, the last time because others keep the nodes that it waits for"
    ray.kill(other)
    for node in made:
        kill(node)
