"""Steps in processes of their own: progress, measurements, errors, and dying with their parent."""

import os
import signal
import subprocess
import sys
import time
from typing import Any, cast

import psutil
import pytest

from esft_bench.harness.execute.executor import Ended
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.step import Resources
from tests.harness.toys import Toy, executor, job


@pytest.fixture(scope="module")
def end(tmp_path_factory):
    """Runs one step to its end; returns how it ended, the progress it made and the log."""

    def run(does, **more):
        folder = tmp_path_factory.mktemp(does)
        local = executor(folder)
        local.start(Toy(does, told="hello", **more), job(folder))
        seen: list[Any] = []
        while not seen or not isinstance(seen[-1], Ended):
            seen += local.wait()
        local.close()
        return seen[-1], [(each.done, each.total) for each in seen[:-1]], local.log

    return run


@pytest.mark.parametrize("holds", ["process", "network"])
def test_a_step_reports_progress_and_measurements(end, holds):
    ended, steps, log = end("works", holds=holds)
    assert ended.measured["said"] == "hello"
    assert (ended.measured["pid"] == os.getpid()) == (holds == "network")
    assert steps[-1] == (3, 3)
    assert holds == "network" or "a line for the log" in log.read_text()


def test_what_the_user_can_mend_comes_back_as_its_sentence(end):
    ended, _, _ = end("is_refused")
    assert (ended.error, ended.fatal) == ("the data are odd: mend them.", False)


def test_a_defect_comes_back_as_one_line_with_its_traceback_in_the_log(end):
    ended, _, log = end("breaks")
    assert ended.error == "RuntimeError: boom"
    assert "Traceback" in log.read_text()


def test_a_killed_step_is_an_error_and_not_a_hang(end):
    ended, _, _ = end("dies")
    assert "ended with code -9" in ended.error


def test_a_full_disk_is_fatal_and_says_that_finished_steps_stay(end):
    ended, _, _ = end("fills_the_disk")
    assert ended.fatal
    assert ended.no_space
    assert "finished steps stay" in ended.error


def test_there_is_room_for_as_many_processes_as_workers_and_for_no_engine_beside_them(tmp_path):
    local = executor(tmp_path, workers=2)
    process, engine = Resources("process"), Toy("works", holds="engine", model="a model").resources
    assert (local.fit(process), local.fit(engine)) == (0, 1)
    local.start(Toy("sleeps", told=str(tmp_path / "1")), job(tmp_path / "1-"))
    assert (local.fit(process), local.fit(engine)) == (0, None)
    local.start(Toy("sleeps", told=str(tmp_path / "2")), job(tmp_path / "2-"))
    assert local.fit(process) is None
    local.close()


ENGINE = Toy("works", holds="engine", model="a model")


@pytest.fixture
def ahead(tmp_path):
    """An executor of one worker that starts an engine ahead, on a checkpoint that is none."""
    local = executor(tmp_path)
    local.start_engine(cast(EngineSettings, ENGINE.resources.engine), tmp_path / "nothing")
    assert (local.fit(Resources("process")), local.fit(ENGINE.resources)) == (None, None)
    yield local
    local.close()


def result(local, step, folder):
    """Start a step and wait for its end."""
    local.start(step, job(folder))
    while not (ended := [each for each in local.wait() if isinstance(each, Ended)]):
        pass
    return ended[0].measured


def test_an_engine_started_ahead_is_in_the_place_of_a_process_until_it_serves_and_stays_beside_others(ahead, tmp_path):
    while ahead.fit(Resources("process")) is None:
        ahead.wait()
    engine = ahead._engines.own.process.pid
    assert result(ahead, Toy("works"), tmp_path / "1")["pid"] != engine
    assert result(ahead, ENGINE, tmp_path / "2")["pid"] == engine
    ahead.start(Toy("sleeps", told=str(tmp_path / "3")), job(tmp_path / "3-"))
    assert ahead.fit(ENGINE.resources) is None


def test_an_engine_at_work_has_the_place_of_one_process_and_goes_before_others(tmp_path):
    local = executor(tmp_path, workers=2)
    local.start_engine(cast(EngineSettings, ENGINE.resources.engine), tmp_path / "nothing")
    while local._held["process"]:
        local.wait()
    process = Resources("process")
    local.start(Toy("sleeps", told=str(tmp_path / "1")), job(tmp_path / "1-"))
    assert local.fit(ENGINE.resources) < local.fit(process)
    local.start(ENGINE, job(tmp_path / "2"))
    assert (local.fit(process), local.fit(ENGINE.resources)) == (None, 0)
    while not any(isinstance(each, Ended) for each in local.wait()):
        assert local.fit(process) is None
    assert local.fit(process) is not None
    local.close()


def test_an_engine_that_dies_while_it_is_started_ahead_is_started_again_by_who_asks(ahead, tmp_path):
    engine = ahead._engines.own.process.pid
    os.kill(engine, signal.SIGKILL)
    while ahead.fit(ENGINE.resources) is None:
        ahead.wait()
    assert result(ahead, ENGINE, tmp_path / "1")["pid"] != engine


def test_children_die_with_a_parent_that_is_killed(tmp_path):
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-m", "tests.harness.toys", str(tmp_path), str(pid_file)])
    deadline = time.monotonic() + 100
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(pid_file.read_text())
    parent.kill()
    parent.wait()
    while time.monotonic() < deadline:
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")
