"""Worker processes: progress, measurements, errors, and dying with their parent."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from esft_bench.harness.workers import Job, Workers
from tests.harness import jobs


@pytest.fixture(scope="module")
def end(tmp_path_factory):
    """Runs one job to its end; returns its outcome, the progress it made and the log."""
    log = tmp_path_factory.mktemp("workers") / "log"

    def run(function):
        workers = Workers(1, log, preload=())
        steps = []
        workers.start(Job("job", f"tests.harness.jobs:{function.__name__}", None, {"say": "hello"}))
        outcomes = []
        while not outcomes:
            outcomes = workers.wait(lambda job, done, total: steps.append((done, total)))
        return outcomes[0], steps, log.read_text()

    return run


def test_a_job_runs_in_a_process_of_its_own_and_reports_progress_and_measurements(end):
    outcome, steps, log = end(jobs.works)
    assert outcome.measured["said"] == "hello"
    assert outcome.measured["pid"] != os.getpid()
    assert steps[-1] == (3, 3)
    assert "a line for the log" in log


def test_what_the_user_can_mend_comes_back_as_its_sentence(end):
    outcome, _, _ = end(jobs.is_refused)
    assert outcome.error == "the data are odd: mend them."


def test_a_defect_comes_back_as_one_line_with_its_traceback_in_the_log(end):
    outcome, _, log = end(jobs.breaks)
    assert outcome.error == "RuntimeError: boom"
    assert "Traceback" in log


def test_a_killed_job_is_an_error_and_not_a_hang(end):
    outcome, _, _ = end(jobs.dies)
    assert "ended with code -9" in outcome.error


def test_a_full_disk_is_fatal_and_says_that_finished_steps_stay(end):
    outcome, _, _ = end(jobs.fills_the_disk)
    assert outcome.fatal
    assert "finished steps stay" in outcome.error


def test_children_die_with_a_parent_that_is_killed(tmp_path):
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-m", "tests.harness.jobs", str(tmp_path / "log"), str(pid_file)])
    deadline = time.monotonic() + 60
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
