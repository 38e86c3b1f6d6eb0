"""Two processes change what is trained as one does, and reach its weights."""

from pathlib import Path

import pytest
import torch

from esft_bench.harness.training.loop import gathered
from tests.harness.changes import CHANGING, NOISE, SETTINGS, experts, part, prepared, run
from tests.harness.forked import together

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have trained into."""
    folder = tmp_path_factory.mktemp("ranks")
    together(2, part, folder)
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
