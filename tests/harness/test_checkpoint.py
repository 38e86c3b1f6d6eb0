"""A checkpoint is there whole or not at all: a training killed while it writes one goes on from the one before."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import filesystem

from esft_bench.harness.training import checkpoint
from esft_bench.harness.training.checkpoint import CHECKPOINT, fault
from tests.conftest import build
from tests.harness.test_train import trained

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MOMENTS = ("shards", "manifest")
"""In the middle of which the second checkpoint's writing is killed."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.harness.test_checkpoint", str(folder)]
    subprocess.run(command, env=environment, check=True, timeout=240)
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_training_killed_while_it_writes_goes_on_from_the_checkpoint_before(
    killed: Path, tmp_path: Path, moment: str
) -> None:
    scratch = killed / moment
    assert len(list(scratch.glob("checkpoint-*"))) == 2  # what was cut off lies there
    assert fault(scratch, moment) == ""
    assert json.loads((scratch / CHECKPOINT).read_text())["step"] == 2
    whole, resumed = build("olmoe"), build("olmoe")
    assert trained(resumed, scratch).losses == trained(whole, tmp_path).losses
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert len(list(scratch.glob("checkpoint-*"))) == 1


def arm(moment: str) -> None:
    """Have this process killed when it next writes a manifest, or the fifth tensor of some shards."""
    place, name, call = {"shards": (filesystem, "_write_item", 5), "manifest": (checkpoint, "write_json", 1)}[moment]
    own, calls = getattr(place, name), itertools.count(1)

    def dying(*arguments: object, **told: object) -> object:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(*arguments, **told)

    setattr(place, name, dying)


def train_until_killed(moment: str, scratch: Path) -> None:
    """Train; the second checkpoint, after step 4, is not finished."""
    scratch.mkdir()
    trained(build("olmoe"), scratch, checkpoint_every=2, progress=lambda step, of: arm(moment) if step == 3 else None)


def main() -> None:
    """Train once for each moment in a child process that is killed then; they share the imports."""
    for moment in MOMENTS:
        child = os.fork()
        if child == 0:
            train_until_killed(moment, Path(sys.argv[1]) / moment)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), status


if __name__ == "__main__":
    main()
