"""Trials that are really trained: what they leave, and a run that is killed among them."""

import math
import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from esft_bench.harness.steps.step import Job
from esft_bench.harness.steps.tune import TrialStep, held_out_loss
from esft_bench.harness.store.names import LOG
from esft_bench.spec.trials import read
from tests.harness.plans import prepared
from tests.harness.runs import artifacts, command
from tests.harness.runs import finish as carried_out

SUITE = """\
name: tuned
tasks: [mini-law]
methods:
  fft: {learning_rate: 1.0e-3}
training: {steps: 9, batch_size: 2, sequence_length: 64, validation_items: 8}
tune: {trials: 4}
evaluation: {engine: transformers, max_length: 512, limit: 4}
"""


def test_a_trial_leaves_its_log_alone_and_one_that_diverges_ends_well_too(tmp_path):
    search = prepared(tmp_path, SUITE).plan.searches["fft", "mini-law"]
    sound = next(iter(search.needs.values()))
    assert isinstance(sound, TrialStep)
    wild = replace(sound, training=sound.training.model_copy(update={"learning_rate": 1.0e30}))
    left = {}
    for name, step in (("sound", sound), ("wild", wild)):
        job = Job({}, tmp_path / name, tmp_path / f"{name}-scratch")
        job.out.mkdir()
        job.scratch.mkdir()
        step.run(job)
        assert [path.name for path in job.out.iterdir()] == [LOG]
        left[name] = held_out_loss(job.out)
    assert 0 < left["sound"] < 10
    assert left["wild"] == math.inf


@pytest.mark.slow
def test_a_search_killed_in_the_middle_finds_the_same_rates_and_does_no_trial_again(tmp_path):
    def folder(name):
        (tmp_path / name).mkdir()
        return tmp_path / name, [*command(tmp_path / name), "--tune", "--set", "training.steps=6", "--workers", "1"]

    undisturbed, arguments = folder("undisturbed")
    assert carried_out(arguments).returncode == 0
    killed, arguments = folder("killed")
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while sum(name.startswith("trial") for name in artifacts(killed)) < 5 and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = artifacts(killed)
    done = carried_out(arguments)
    assert done.returncode == 0, done.stderr
    trials = read(killed / "runs" / "path-tuned")
    assert trials == read(undisturbed / "runs" / "path-tuned")
    assert {trial.method for trial in trials} == {"fft", "esft-token"}
    assert artifacts(killed).keys() == artifacts(undisturbed).keys()
    assert before.items() <= artifacts(killed).items()
