"""Telling a training's steps to TensorBoard, Weights & Biases or MLflow, by accelerate's trackers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator

from esft_bench.harness.training.log import TrainingLog
from esft_bench.spec.trackers import Trackers
from esft_bench.spec.training import Training


def accelerator_with(trackers: Trackers | None, name: str, **settings: Any) -> Accelerator:
    """An accelerator that knows the trackers; they write into a folder called `name`."""
    if trackers is None:
        return Accelerator(**settings)
    return Accelerator(log_with=list(trackers.names), project_dir=trackers.folder / name, **settings)


@contextmanager
def told(accelerator: Accelerator, trackers: Trackers | None, name: str, settings: Training) -> Iterator[None]:
    """Keep a run of the training open at the trackers while the block runs."""
    if trackers is None:
        yield
        return
    plain = {key: str(value) for key, value in settings.model_dump(mode="json").items()}
    own = {"wandb": {"name": name}, "mlflow": {"run_name": name}}
    kept = {key: value for key, value in own.items() if key in trackers.names}
    accelerator.init_trackers(trackers.project, config=plain, init_kwargs=kept)
    try:
        yield
    finally:
        accelerator.end_training()


def tell(accelerator: Accelerator, step: int, log: TrainingLog) -> None:
    """Tell a step, where `told` keeps a run open: its loss and gradient norm, and what a look after it found."""
    found = {"loss": log.losses[-1], "gradient_norm": log.gradient_norms[-1]}
    for name, values in (("held_out_loss", log.validation), ("held_out_score", log.scores)):
        if values and values[-1][0] == step:
            found[name] = values[-1][1]
    accelerator.log(found, step=step)
