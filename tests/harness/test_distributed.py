"""What trains is an ordinary parameter to accelerate, DDP and FSDP2: two processes reach the weights of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.harness.ranks import METHODS, prepared, run

ROOT = Path(__file__).parents[2]
LAUNCH = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
"""On a CPU (gloo) by the environment: with `--cpu` the launcher starts a second process through MPI only."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have trained all methods into."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), "-m", "tests.harness.ranks"]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
    }
    result = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


@pytest.mark.parametrize("course", ["whole", "resumed"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_reach_the_weights_one_reaches_with_the_same_batch(
    trained: Path, tmp_path: Path, strategy: str, method: str, course: str
) -> None:
    before = prepared(METHODS[method])[0].state_dict()
    reference, log = run(METHODS[method], tmp_path)
    # What the harness does when several processes have trained: one of its own goes on from where they ended.
    model, found = run(METHODS[method], trained / strategy / method / course)

    torch.testing.assert_close(found.losses, log.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.scores, log.scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.validation, log.validation, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.routing, log.routing, rtol=1e-4, atol=1e-5)
    assert [step for step, _ in found.routing] == [0, *(step for step, _ in found.scores)] == [0, 2, 4]
    torch.testing.assert_close(found.gradient_norms, log.gradient_norms, rtol=1e-4, atol=1e-6)
    moved = 0.0
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=2e-6, msg=name)
        moved = max(moved, float((tensor - before[name]).abs().max()))
    assert moved > 1e-3
