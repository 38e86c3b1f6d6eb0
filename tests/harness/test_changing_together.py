"""Two processes change what is trained as one does, and reach its weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esft_bench.harness.training.loop import gathered
from tests.harness.changes import CHANGING, NOISE, SETTINGS, experts, prepared, run
from tests.harness.test_distributed import LAUNCH, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have trained into."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), "--num_processes", "2", "-m"]
    told = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    result = subprocess.run(
        [*command, "tests.harness.changes", str(folder)],
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


@pytest.mark.parametrize("course", ["whole", "resumed"])
@pytest.mark.parametrize("name", CHANGING)
def test_two_processes_choose_the_experts_and_reach_the_weights_of_one(
    trained: Path, tmp_path: Path, name: str, course: str
) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 3})
    reference, log = run(CHANGING[name], tmp_path, settings)
    model, changes, _ = prepared(CHANGING[name])
    found = gathered(model, trained / name / course, changes)
    torch.testing.assert_close(found.losses, log.losses, rtol=1e-5, atol=1e-6)
    assert experts(model) == experts(reference)
    for key, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], tensor, rtol=1e-4, atol=NOISE, msg=key)
