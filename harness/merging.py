"""From a backbone and the adapters of one or several trainings to a checkpoint."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from esft_bench.methods.registry import load_methods
from esft_bench.spec.files import full_disk_is_a_sentence


class Change(BaseModel):
    """An adapter and the method that made it: what a training changed of the checkpoint before it."""

    model_config = ConfigDict(frozen=True)
    method: str
    hyperparameters: dict[str, Any]
    adapter: Path


@contextmanager
def merged(backbone: Path, changes: Sequence[Change], folder: Path) -> Iterator[Path]:
    """The Hugging Face checkpoint that `backbone` is after `changes`, in order; in `folder` while the block lasts.

    Without changes it is the backbone itself. Raises MethodError where an adapter does not fit.
    """
    shutil.rmtree(folder, ignore_errors=True)
    last = backbone
    try:
        for number, change in enumerate(changes):
            out = folder / str(number)
            out.mkdir(parents=True)
            method = load_methods()[change.method].model_validate(change.hyperparameters)
            with full_disk_is_a_sentence(out):
                method.merge(last, change.adapter, out)
            if number:
                shutil.rmtree(last)
            last = out
        yield last
    finally:
        shutil.rmtree(folder, ignore_errors=True)
