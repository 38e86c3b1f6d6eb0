"""From a backbone and the adapters of one or several trainings to a checkpoint."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from esft_bench.harness.store.names import ADAPTER, MERGER
from esft_bench.methods.registry import load_methods
from esft_bench.spec.files import full_disk_is_a_sentence, remove


class Merger(BaseModel):
    """The method, with its hyperparameters, that made the adapter beside it: what merges it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: str
    hyperparameters: dict[str, Any]

    def save(self, trained: Path) -> None:
        """Write it into a training's folder, which becomes visible as a whole."""
        (trained / MERGER).write_text(self.model_dump_json(), "utf-8")


@contextmanager
def merged(backbone: Path, trained: Sequence[Path], folder: Path) -> Iterator[Path]:
    """The Hugging Face checkpoint that `backbone` is after trainings, in order; in `folder` while the block lasts.

    `trained` are the folders of the trainings' artifacts. Without any it is the backbone itself. Raises MethodError
    where an adapter does not fit.
    """
    remove(folder)
    last = backbone
    try:
        for number, training in enumerate(trained):
            out = folder / str(number)
            out.mkdir(parents=True)
            merger = Merger.model_validate_json((training / MERGER).read_bytes())
            method = load_methods()[merger.method].model_validate(merger.hyperparameters)
            with full_disk_is_a_sentence(out):
                method.merge(last, training / ADAPTER, out)
            if number:
                shutil.rmtree(last)
            last = out
        yield last
    finally:
        remove(folder)
