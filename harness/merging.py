"""From a backbone and the adapters of one or several trainings to what they change, or to a checkpoint."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from esft_bench.harness.store.names import ADAPTER, MERGER
from esft_bench.methods.method import Method
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
            out = _written(_method(training).merge, last, training, folder / str(number))
            if number:
                shutil.rmtree(last)
            last = out
        yield last
    finally:
        remove(folder)


def _method(training: Path) -> Method:
    merger = Merger.model_validate_json((training / MERGER).read_bytes())
    return load_methods()[merger.method].model_validate(merger.hyperparameters)


def _write_changed(method: Method) -> Callable[[Path, Path, Path], None]:
    """The method's `write_changed`; where a class defines `merge` anew, and that not, what finds how it differs."""
    for kind in type(method).__mro__:
        if "write_changed" in vars(kind):
            break
        if "merge" in vars(kind):
            return partial(Method.write_changed, method)
    return method.write_changed


def _written(write: Callable[[Path, Path, Path], None], base: Path, training: Path, out: Path) -> Path:
    """Have a method write into the new folder `out`."""
    out.mkdir(parents=True)
    with full_disk_is_a_sentence(out):
        write(base, training / ADAPTER, out)
    return out


@dataclass(frozen=True)
class Model:
    """What a backbone is after trainings, for an engine to serve.

    Attributes:
        backbone: its folder.
        trained: the folders of the trainings' artifacts, in order; none for the backbone itself.
        scratch: a folder for what is written meanwhile; nothing of it stays.
    """

    backbone: Path
    trained: tuple[Path, ...]
    scratch: Path

    @property
    def place(self) -> Path:
        """What a sentence calls it: the last training's folder, or the backbone's."""
        return self.trained[-1] if self.trained else self.backbone

    @contextmanager
    def changed(self) -> Iterator[list[Path]]:
        """A folder for each training of what it changes (`Method.write_changed`), later ones over earlier ones.

        They are there while the block lasts. Raises MethodError where an adapter does not fit.
        """
        folder = self.scratch / "changed"
        remove(folder)
        try:
            yield [self._changed(number, folder / str(number)) for number in range(len(self.trained))]
        finally:
            remove(folder)

    def _changed(self, number: int, out: Path) -> Path:
        training = self.trained[number]
        with merged(self.backbone, self.trained[:number], self.scratch / "merged") as base:
            return _written(_write_changed(_method(training)), base, training, out)

    @contextmanager
    def whole(self) -> Iterator[Path]:
        """The merged checkpoint, while the block lasts."""
        with merged(self.backbone, self.trained, self.scratch / "merged") as checkpoint:
            yield checkpoint
