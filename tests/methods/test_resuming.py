"""What a method trains are ordinary parameters to the training loop and its checkpoints."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from esft_bench.harness.training.data import Sample
from esft_bench.harness.training.loop import CHECKPOINT, Options, train
from esft_bench.methods.method import Context
from esft_bench.spec.suite import Training
from tests.methods.helpers import TRAINING, profiled

SETTINGS = Training(steps=4, batch_size=2, sequence_length=12, learning_rate=1e-2)


class StoppedError(Exception):
    """Stands for a kill."""


def sequences() -> Iterator[Sample]:
    rng = random.Random(0)
    while True:
        ids = [rng.randrange(3, 96) for _ in range(12)]
        yield Sample(ids, ids)


def stop(step: int, steps: int) -> None:
    if step == 3:
        raise StoppedError


CASES = [("deepseek-v2", method) for method in TRAINING] + [("gpt-oss", "esft-token"), ("gpt-oss", "esft-lora")]


@pytest.mark.parametrize(("architecture", "name"), CASES)
def test_a_run_stopped_and_resumed_ends_at_the_weights_of_an_undisturbed_one(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path, architecture: str, name: str
) -> None:
    method = TRAINING[name]

    def trained(scratch: str, progress: Callable[[int, int], None] | None = None) -> PreTrainedModel:
        model = tiny_model(architecture)
        parameters = method.prepare(model, Context(seed=0, profile=profiled(model)))
        (tmp_path / scratch).mkdir(exist_ok=True)
        options = Options(checkpoint_every=2, progress=progress or (lambda step, steps: None))
        train(model, parameters, sequences(), SETTINGS, tmp_path / scratch, options)
        return model

    whole = trained("whole")
    with pytest.raises(StoppedError):
        trained("stopped", stop)
    assert (tmp_path / "stopped" / CHECKPOINT).exists()
    resumed = trained("stopped").state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed[name]), name
