"""One training over several nodes: what it comes to, and what becomes of it where a part dies."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")

import ray
from ray.util import placement_group_table

from esft_bench.harness.execute.cluster import alive as alive_module
from esft_bench.harness.execute.executor import Progressed
from tests.harness.nodes import add_node, cluster, executor, free_port, kill
from tests.harness.several import AGAIN, TRAINED, Together, begun_at, check_weights
from tests.harness.toys import job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nodes():
    """A cluster of three nodes, each with one accelerator by declaration, which this process drives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
        made = cluster(3, port := free_port(), num_gpus=1)
    made.client = f"ray://127.0.0.1:{port}"
    ray.init(made.address, logging_level="ERROR", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


class Run:
    """A step at work on so many accelerators of the cluster."""

    def __init__(self, folder: Path, step: Together, gpus: int, **ways):
        self.executor = executor(folder, gpus=lambda step: gpus, **ways)
        self.scratch = folder / "job" / "scratch"
        assert self.executor.fit(self.executor.asks(step)) == 0
        self.executor.start(step, job(folder / "job"))
        self.seen: list[Any] = []

    def until(self, what, seconds: float = 600.0) -> None:
        """Have it go on until something is so."""
        deadline = time.monotonic() + seconds
        while not what():
            self.seen += self.executor.wait()
            assert time.monotonic() < deadline, self.executor.log.read_text()

    def end(self):
        """How it ended."""
        self.until(lambda: self.seen and not isinstance(self.seen[-1], Progressed))
        self.executor.close()
        return self.seen[-1]

    def waiting(self, count: int) -> list[psutil.Process]:
        """Its processes, by rank, once they are in the midst."""
        self.until(lambda: len(list(self.scratch.glob("*.waits"))) == count)
        files = sorted(self.scratch.glob("*.waits"))
        return [psutil.Process(int(file.read_text())) for file in files]


def check_gone(processes: list[psutil.Process]) -> None:
    """That nothing is left of an attempt."""
    _, alive = psutil.wait_procs(processes, timeout=200)
    assert not alive


def until(what) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 200
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def check_given_back() -> None:
    """That no machine is held any more."""
    until(lambda: {each["state"] for each in placement_group_table().values()} <= {"REMOVED"})


def test_processes_of_two_nodes_reach_the_weights_of_one_and_a_driver_elsewhere_gets_them(nodes, tmp_path):
    """The driver is at the end of Ray's client port, as `--on ray://HOST:PORT` has it."""
    larger = [add_node(nodes, num_cpus=2, num_gpus=2) for _ in range(2)]
    driver = drive(nodes.client, tmp_path, "", "4", stdout=subprocess.PIPE, text=True)
    said, _ = driver.communicate(timeout=600)
    failed, _, made = said.partition(" ")
    assert failed == "{}", said
    places = [(share["machine"], share["rank"]) for share in ast.literal_eval(made)[0]["shares"]]
    assert sorted(places) == [(rank // 2, rank) for rank in range(4)]
    (trained,) = (tmp_path / "store").rglob(TRAINED)
    for method in ("fft", "esft-token"):
        check_weights(trained, method)
    check_given_back()
    for node in larger:
        kill(node)
    gone = {node.node_id for node in larger}
    until(lambda: not any(each["Alive"] for each in ray.nodes() if each["NodeID"] in gone))


def drive(address: str, *told: Any, **more: Any) -> subprocess.Popen[str]:
    """Begin a driver."""
    return subprocess.Popen([sys.executable, "-m", "tests.harness.several", address, *map(str, told)], **more)


def worker_of(process: psutil.Process) -> psutil.Process:
    """Ray's process that launched one of a training."""
    return next(each for each in process.parents() if each.name().startswith("ray::"))


def test_a_training_that_loses_a_part_twice_is_begun_again_and_comes_to_the_same(nodes, tmp_path, monkeypatch):
    """First Ray's process on the second node, then the first node as a whole."""
    monkeypatch.setattr(alive_module, "OVER", 0.5)  # it is killed, and not cut off
    run = Run(tmp_path, Together("trains", told="waits"), 2)
    first = run.waiting(2)
    worker_of(first[1]).kill()
    run.until(lambda: log_of(run).count("goes on elsewhere") == 1)
    check_gone(first)
    for file in run.scratch.glob("*.waits"):
        file.unlink()
    second = run.waiting(2)
    (run.scratch / AGAIN).touch()
    parents = [above.pid for above in worker_of(second[0]).parents()]
    (node,) = [each for each in nodes.worker_nodes if raylet(each) in parents]
    kill(node)
    run.until(lambda: log_of(run).count("goes on elsewhere") == 2)
    check_gone(second)
    ended = run.end()
    assert ended.error == ""
    assert {begun_at(share["steps"]) for share in ended.measured["shares"]} <= {3, 4}
    check_weights(tmp_path / "job" / "out" / TRAINED, "esft-token")
    check_given_back()
    add_node(nodes, num_gpus=1)


def raylet(node) -> int:
    """The process of a node."""
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def log_of(run: Run) -> str:
    """What is in the log so far."""
    return run.executor.log.read_text() if run.executor.log.exists() else ""


def test_a_process_that_is_ended_on_another_node_ends_all_and_is_one_sentence(nodes, tmp_path):
    run = Run(tmp_path, Together("trains", told="waits"), 2)
    first = run.waiting(2)
    os.kill(first[1].pid, signal.SIGKILL)
    assert run.end().error.startswith("One of the 2 processes that train together was ended from outside")
    check_gone(first)
    check_given_back()


def test_a_mistake_found_on_another_node_is_one_sentence(nodes, tmp_path):
    assert Run(tmp_path, Together("trains", told="refuses"), 2).end().error == "the last one would not."
    check_given_back()


def test_nothing_is_left_on_any_node_of_a_driver_that_is_killed(nodes, tmp_path):
    driver = drive(nodes.address, tmp_path, "waits")
    deadline = time.monotonic() + 300
    while len(waits := list(tmp_path.rglob("*.waits"))) < 2:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    left = [psutil.Process(int(file.read_text())) for file in waits]
    driver.kill()
    driver.wait()
    check_gone(left)
    check_given_back()
