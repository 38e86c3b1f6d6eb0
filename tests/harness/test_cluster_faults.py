"""What becomes of a run whose cluster's head is gone, and of attempts on nodes that are."""

import itertools
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")

from esft_bench.harness.execute.cluster import alive, fence
from esft_bench.harness.execute.cluster.alive import Alive, HeadLostError
from esft_bench.harness.execute.cluster.fence import fenced
from esft_bench.harness.execute.cluster.room import Node

NODES = [Node("one", "", 1, 0)]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(alive, "LOOKS", 0.01)
    monkeypatch.setattr(fence, "LOOKS", 0.05)


def until(what) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_head_that_does_not_answer_is_one_sentence_in_time():
    """Ray asks without end: it is not asked where the run itself would wait."""
    silent = threading.Event()

    def nodes() -> list[Node]:
        if silent.is_set():
            threading.Event().wait()
        return list(NODES)

    seen = Alive(nodes, 0.5)
    first = seen.nodes
    until(lambda: seen.nodes is not first)
    assert seen.nodes == NODES
    silent.set()
    with pytest.raises(HeadLostError, match=r"head has not answered for 0 seconds.*the same command goes on"):
        until(lambda: not seen.nodes)
    assert seen.lost


def test_a_driver_that_slept_does_not_take_the_head_for_lost(monkeypatch):
    asked, now = threading.Event(), [0.0]

    def nodes() -> list[Node]:
        if now[0]:
            asked.set()
            threading.Event().wait()
        return list(NODES)

    monkeypatch.setattr(alive, "time", SimpleNamespace(monotonic=lambda: now[0]))
    seen = Alive(nodes, 5.0)
    now[0] = 0.5
    assert asked.wait(30)
    now[0] = 3600.0
    time.sleep(0.2)
    assert seen.nodes == NODES
    seen.close()


def test_a_run_that_waits_for_the_head_itself_ends_with_the_sentence(monkeypatch, capfd):
    monkeypatch.setattr(alive, "HEARD_WITHIN", 0.2)
    if not (pid := os.fork()):
        answers = iter([list(NODES)])

        def nodes() -> list[Node]:
            for answer in answers:
                return answer
            time.sleep(60)
            return []

        Alive(nodes, 0.2)
        time.sleep(60)
        os._exit(0)
    assert ended(pid) == 2
    assert capfd.readouterr().err.startswith("esft-bench: The Ray cluster's head has not answered for 0 seconds: ")


def test_an_answer_that_comes_late_or_fails_once_is_no_end():
    asked = itertools.count()

    def nodes() -> list[Node]:
        if next(asked) == 1:
            raise ConnectionError
        return list(NODES)

    seen = Alive(nodes, 5.0)
    first = seen.nodes
    until(lambda: seen.nodes is not first)
    seen.close()


def attempt(folder: Path, seconds: float) -> int:
    """A process that builds in a folder for some seconds."""
    if pid := os.fork():
        return pid
    with fenced([folder]):
        time.sleep(seconds)
    os._exit(7)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_attempt_whose_folder_is_removed_ends_at_once(tmp_path):
    pid = attempt(folder := tmp_path / "out", 60)
    time.sleep(0.3)  # it is not there yet: the attempt makes it
    folder.mkdir()
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    time.sleep(0.3)
    folder.rmdir()
    assert ended(pid) == -signal.SIGKILL


def test_an_attempt_that_is_over_or_keeps_its_folder_is_left_alone(tmp_path):
    (folder := tmp_path / "out").mkdir()
    assert ended(attempt(folder, 0.5)) == 7
    with fenced([folder]):
        time.sleep(0.2)
    folder.rmdir()
    time.sleep(0.3)  # else this very process ends
