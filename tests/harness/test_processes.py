"""Training a cell in several processes: what comes out, what it says, and that nothing is left running."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from esft_bench.harness.serving.canary import Canary, compare
from esft_bench.harness.store.names import AFTER, CANARY, LOG
from esft_bench.harness.training.cell import train_cell
from esft_bench.harness.training.together.launching import launch
from esft_bench.harness.training.together.machines import SHARDED, Crew
from esft_bench.harness.training.together.room import check_room
from esft_bench.harness.training.told import CellTraining
from esft_bench.methods.moe.profile import Profile
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import write_jsonl
from esft_bench.spec.suite import Backbone, Profiling
from esft_bench.spec.training import Training
from tests.harness.conftest import BACKBONE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")


@pytest.mark.parametrize("shared", ["0", "1"])
def test_a_cell_trained_by_two_processes_is_the_cell_one_trains(tmp_path, monkeypatch, shared):
    monkeypatch.setenv(SHARDED, shared)
    rows = [
        [{"role": "user", "content": f"Add {n} and 2."}, {"role": "assistant", "content": str(n + 2)}]
        for n in range(40)
    ]
    write_jsonl(tmp_path / "task.jsonl", rows)
    training = Training(steps=3, batch_size=4, sequence_length=48, learning_rate=1e-3)
    seen, adapters = {}, {}
    for processes in (1, 2):
        out, scratch = tmp_path / f"out{processes}", tmp_path / f"scratch{processes}"
        out.mkdir()
        scratch.mkdir()
        cell = CellTraining(
            **{"backbone": BACKBONE, "loading": Backbone(), "tasks": [tmp_path / "task.jsonl"], "seed": 0},
            **{"method": "attention-router", "hyperparameters": {}, "training": training},
            **{"out": out, "scratch": scratch, "processes": processes},
            **{"profiling": Profiling(sequences=4, sequence_length=48), "profile_after": True},
        )
        steps: list[tuple[int, int]] = []
        seen[processes] = train_cell(cell, lambda *done, steps=steps: steps.append(done))
        assert steps[-1] == (3, 3)
        (weights,) = (out / "adapter").glob("*.safetensors")
        adapters[processes] = load_file(weights)
    one, two = adapters[1], adapters[2]
    assert one.keys() == two.keys()
    # AdamW's first steps are as long for a gradient that is all rounding: a few weights of 300 000 differ more.
    apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    assert float(apart.max()) < 1e-4
    assert int((apart > 1e-6).sum()) < len(apart) / 10_000
    losses = [json.loads((tmp_path / f"out{processes}" / LOG).read_text())["losses"] for processes in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    canaries = [Canary.load(tmp_path / f"out{processes}" / CANARY) for processes in (1, 2)]
    assert compare(*canaries) < 1e-4
    profiles = [Profile.load(tmp_path / f"out{processes}" / AFTER) for processes in (1, 2)]
    assert torch.equal(profiles[0].token_counts, profiles[1].token_counts)
    assert seen[2]["steps"] == seen[1]["steps"] == 3
    assert seen[2]["trainable_parameters"] == seen[1]["trainable_parameters"]
    assert seen[2]["processes"] == 2
    assert seen[2]["peak_memory_bytes"] > 10e6


def test_a_mistake_found_in_one_of_the_processes_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "esft_bench.harness.training.together.launching._launcher", lambda place: []
    )  # one process, without a launcher
    with pytest.raises(UserError, match=r"^The moon cannot be had\.$"):
        launch(
            "tests.harness.toys:refuses_its_share", {"what": "The moon"}, Crew(1), tmp_path, lambda step, steps: None
        )


def test_processes_know_of_each_other_and_one_that_is_ended_while_it_loads_is_one_sentence(tmp_path):
    job = "tests.harness.toys:ends_in_its_share"
    with pytest.raises(UserError, match=r"^One of the 2 processes that train together was ended from outside"):
        launch(job, {"folder": str(tmp_path)}, Crew(2), tmp_path, lambda step, steps: None)
    assert {path.name for path in tmp_path.glob("* of *")} == {"0 of 2", "1 of 2"}


def test_a_machine_with_too_little_memory_is_found_out_before_anything_is_read(tmp_path, monkeypatch):
    available = type("Memory", (), {"available": 40_000_000})
    monkeypatch.setattr("esft_bench.harness.training.together.room.psutil.virtual_memory", lambda: available)
    monkeypatch.setenv(SHARDED, "0")
    check_room(BACKBONE, "float32", 2)  # 16 MB a copy
    with pytest.raises(UserError, match=r"^3 processes need 0\.0 GiB of main memory to load the model, and 0\.0 GiB"):
        check_room(BACKBONE, "float32", 3)
    check_room(BACKBONE, "bf16", 3)
    monkeypatch.setenv(SHARDED, "1")
    check_room(BACKBONE, "float32", 3)
    check_room(BACKBONE, "float32", 3, apart=True, trained=39_000_000)
    with pytest.raises(UserError, match=r"^3 processes need 0\.0 GiB of main memory to put together what they"):
        check_room(BACKBONE, "float32", 3, apart=True, trained=41_000_000)


def test_no_process_outlives_the_one_that_launched_it(tmp_path):
    code = (
        "import pathlib\n"
        "from esft_bench.harness.training.together.launching import launch\n"
        "from esft_bench.harness.training.together.machines import Crew\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "job = 'tests.harness.toys:sleeps_over_its_share'\n"
        "launch(job, {'folder': str(folder)}, Crew(2), folder, lambda step, steps: None)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while len(started := list(tmp_path.glob("*.pid"))) < 2:
            assert worker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        left = [psutil.Process(int(path.stem)) for path in started] + psutil.Process(worker.pid).children()
    finally:
        worker.kill()
        worker.wait()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert not alive
