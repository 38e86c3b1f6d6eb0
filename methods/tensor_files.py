"""The tensors of a checkpoint or an adapter, read one at a time from its safetensors files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from esft_bench.methods.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs"
"""How a file begins that stands for one which Git LFS has not fetched."""
ROW = re.compile(r"(.+)\[(\d+)\]")
"""The name of a row of a tensor: `NAME[7]`."""


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of a folder's safetensors files, read one at a time; `files` says where each one is.

    Row 7 of a tensor can be asked for as `NAME[7]`.
    """

    folder: Path
    files: dict[str, Path]

    @cached_property
    def _open(self) -> dict[Path, Any]:
        """Each file, mapped once: opening one reads the header with all its names."""
        return {path: safe_open(path, "pt") for path in set(self.files.values())}

    def find(self, name: str) -> tuple[str, int | None]:
        """The name of the tensor that has what is asked for, and the row of it, None for all. Raises KeyError."""
        if name in self.files:
            return name, None
        row = ROW.fullmatch(name)
        if row is None or row[1] not in self.files or int(row[2]) >= self.shape(row[1])[0]:
            raise KeyError(name)
        return row[1], int(row[2])

    def holds(self, name: str) -> bool:
        """Whether there is a tensor, or a row of one, of this name."""
        try:
            self.find(name)
        except KeyError:
            return False
        return True

    def shape(self, name: str) -> list[int]:
        """Shape of a tensor, from the header."""
        tensor, row = self.find(name)
        shape = list(self._open[self.files[tensor]].get_slice(tensor).get_shape())
        return shape if row is None else shape[1:]

    def dtype(self, name: str) -> str:
        """Type of a tensor's numbers as safetensors calls it, e.g. `BF16`, from the header."""
        tensor, _ = self.find(name)
        return str(self._open[self.files[tensor]].get_slice(tensor).get_dtype())

    def read(self, name: str) -> Tensor:
        """Read a tensor."""
        tensor, row = self.find(name)
        file = self._open[self.files[tensor]]
        read: Tensor = file.get_tensor(tensor) if row is None else file.get_slice(tensor)[row]
        return read


def tensor_files(folder: Path) -> TensorFiles:
    """Look into the safetensors files of a checkpoint or an adapter.

    Raises MethodError, naming the file, where there is none, one is missing, cut off, or only a pointer to itself, or
    lacks a tensor that the index says it has.
    """
    files: dict[str, Path] = {}
    for path in weight_files(folder):
        files |= dict.fromkeys(_names(path), path)
    for name, file in _index(folder).items() if has_index(folder) else ():
        if files.get(name) != folder / file:
            raise MethodError(f"{folder / INDEX} says that {file} holds `{name}`, which it does not; fetch both again")
    return TensorFiles(folder, files)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers takes for the checkpoint; of an adapter, which has none of them, all.

    What lies beside them, such as a consolidated copy, is no part of it. Raises MethodError where one is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if has_index(folder):
        paths = sorted({folder / file for file in _index(folder).values()})
        if missing := [path for path in paths if not path.is_file()]:
            raise MethodError(
                f"{folder / INDEX} names {missing[0].name}, which is not there; fetch the checkpoint again"
            )
        return paths
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise MethodError(f"{folder} holds no .safetensors file; it must be a checkpoint folder or an adapter")
    return found


def has_index(folder: Path) -> bool:
    """Whether the checkpoint is the shards that an index names; transformers prefers a single file."""
    return (folder / INDEX).is_file() and not (folder / SINGLE).is_file()


def _index(folder: Path) -> dict[str, str]:
    """The file of each tensor by the index."""
    path = folder / INDEX
    try:
        table = json.loads(path.read_text("utf-8"))["weight_map"]
        return {str(name): Path(file).name for name, file in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MethodError(f"{path} is no index of weights ({error!r}); fetch it again") from error


def _names(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise MethodError(f"{path} is a pointer of Git LFS, not the weights; run `git lfs pull` in its folder")
        with safe_open(path, "np") as tensors:  # names alone: torch would take seconds to import
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise MethodError(f"{path} is not a whole safetensors file ({error}); write or fetch it again") from error
