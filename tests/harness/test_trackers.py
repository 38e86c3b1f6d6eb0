"""Trainings are told to the trackers that are asked for, and read back from TensorBoard's own files."""

from pathlib import Path

import pytest
import torch

from esft_bench.harness.commands.tracked import trackers
from esft_bench.harness.training.data import Sample
from esft_bench.harness.training.loop import Options, train
from esft_bench.spec.errors import UserError
from esft_bench.spec.trackers import Trackers
from esft_bench.spec.training import Training
from tests.conftest import build

SETTINGS = Training(steps=3, batch_size=1, sequence_length=12, evaluate_every=2, learning_rate=1e-3)


def trained(folder: Path, told: Trackers | None) -> list[float]:
    """The losses of a short training."""
    model = build("olmoe")
    ids = torch.randint(3, 96, (4, 12), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [Sample(row, row) for row in ids]
    folder.mkdir()
    log = train(
        model,
        list(model.parameters()),
        iter(rows),
        SETTINGS,
        folder,
        Options(held_out=rows[3:], trackers=told, cell="fft-law-0"),
    )
    return log.losses


def test_tensorboard_reads_back_every_step_and_every_look(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told = Trackers(names=("tensorboard",), folder=tmp_path / "seen", project="mini")
    losses = trained(tmp_path / "scratch", told)
    events = event_accumulator.EventAccumulator(str(tmp_path / "seen" / "fft-law-0" / "mini"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [
        (step, pytest.approx(loss)) for step, loss in enumerate(losses, start=1)
    ]
    assert [one.step for one in events.Scalars("held_out_loss")] == [2, 3]


def test_a_training_that_is_watched_is_the_training_that_is_not(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    told = Trackers(names=("tensorboard",), folder=tmp_path / "seen", project="mini")
    assert trained(tmp_path / "one", told) == trained(tmp_path / "other", None)


def test_nothing_is_told_to_anybody_unless_asked(tmp_path: Path) -> None:
    assert trackers(None, tmp_path) is None
    trained(tmp_path / "scratch", None)
    assert not (tmp_path / "seen").exists()


def test_a_tracker_that_is_not_known_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--track neptune: there are tensorboard, wandb, mlflow"):
        trackers(["neptune"], tmp_path)


def test_a_tracker_that_is_not_installed_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        trackers(["wandb"], tmp_path)
