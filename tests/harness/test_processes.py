"""Training a cell in several processes: what comes out, what it says, and that nothing is left running."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from esft_bench.harness.training.cell import CellTraining, train_cell
from esft_bench.harness.training.processes import launch
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import write_jsonl
from esft_bench.spec.suite import Backbone
from esft_bench.spec.training import Training
from tests.harness.conftest import BACKBONE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")


def test_a_cell_trained_by_two_processes_is_the_cell_one_trains(tmp_path):
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
        )
        steps: list[tuple[int, int]] = []
        seen[processes] = train_cell(cell, lambda *done, steps=steps: steps.append(done))
        assert steps[-1] == (3, 3)
        (weights,) = (out / "adapter").glob("*.safetensors")
        adapters[processes] = load_file(weights)
    one, two = adapters[1], adapters[2]
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    assert seen[2]["steps"] == seen[1]["steps"] == 3
    assert seen[2]["trainable_parameters"] == seen[1]["trainable_parameters"]
    assert seen[2]["processes"] == 2
    assert seen[2]["peak_memory_bytes"] > 10e6


def test_a_mistake_found_in_one_of_the_processes_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "esft_bench.harness.training.processes._launcher", lambda processes: []
    )  # one process, without a launcher
    with pytest.raises(UserError, match=r"^The moon cannot be had\.$"):
        launch("tests.harness.toys:refuses_its_share", {"what": "The moon"}, 1, tmp_path, lambda step, steps: None)


def test_no_process_outlives_the_one_that_launched_it(tmp_path):
    code = (
        "import pathlib\n"
        "from esft_bench.harness.training.processes import launch\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "job = 'tests.harness.toys:sleeps_over_its_share'\n"
        "launch(job, {'folder': str(folder)}, 2, folder, lambda step, steps: None)\n"
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
