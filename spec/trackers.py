"""Where trainings can be watched while they go on: the tools that people use for it, through accelerate."""

from pathlib import Path
from typing import Literal, get_args

from esft_bench.spec.strict import Strict

Tracker = Literal["tensorboard", "wandb", "mlflow"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)


class Trackers(Strict):
    """Which tools are told of a training's steps, none unless asked for.

    Attributes:
        names: the tools.
        folder: where those that write files do so, a folder for each training.
        project: what trainings are listed under.
    """

    names: tuple[Tracker, ...]
    folder: Path
    project: str
