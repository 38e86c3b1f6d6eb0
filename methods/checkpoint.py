"""Merge by overlay: a base checkpoint with some tensors replaced, made from safetensors alone, without a model."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from esft_bench.methods.atomic import write_tensors
from esft_bench.methods.errors import MethodError

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""Suffixes of weight files; every other file of a base folder (configuration, tokenizer, shard index) is taken over."""
ROW = re.compile(r"(.+)\[(\d+)\]")
"""The name of a row of a tensor: `NAME[7]`."""


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of all safetensors files of a folder, read one at a time; `files` says where each one is.

    Row 7 of a tensor can be asked for as `NAME[7]`.
    """

    folder: Path
    files: dict[str, Path]

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
        with safe_open(self.files[tensor], "pt") as file:
            shape = list(file.get_slice(tensor).get_shape())
        return shape if row is None else shape[1:]

    def read(self, name: str) -> Tensor:
        """Read a tensor."""
        tensor, row = self.find(name)
        with safe_open(self.files[tensor], "pt") as file:
            read: Tensor = file.get_tensor(tensor) if row is None else file.get_slice(tensor)[row]
        return read


def tensor_files(folder: Path) -> TensorFiles:
    """Look into all safetensors files of a folder. Raises MethodError where there is none or one cannot be read."""
    files: dict[str, Path] = {}
    for path in _shards(folder):
        try:
            with safe_open(path, "pt") as file:
                files |= dict.fromkeys(file.keys(), path)
        except (SafetensorError, OSError) as error:
            raise MethodError(
                f"{path} is not a readable safetensors file ({error}); write or fetch it again"
            ) from error
    return TensorFiles(folder, files)


def _same(name: str) -> str:
    return name


def overlay(base: Path, changed: Path, out: Path, rename: Callable[[str], str] = _same) -> None:
    """Write into `out` the checkpoint `base` with the tensors of the folder `changed` in place of its own.

    A tensor of `changed` named `NAME[7]` takes the place of row 7 of the base's `NAME`. Goes shard by shard; shards
    that do not change are linked, or copied across file systems. Replaced tensors keep the dtype they were trained in,
    so that what is served is what was trained, or the base's where that is the wider. `rename` maps a name in `changed`
    to its name in the base.

    Raises MethodError, before anything is written, where a name or a shape is not in the base.
    """
    old, new = tensor_files(base), tensor_files(changed)
    sources = {rename(name): name for name in new.files}
    for name, source in sources.items():
        check_fits(name, new.shape(source), old, changed)
    for path in _shards(base):
        if replaced := [name for name in sources if old.files[old.find(name)[0]] == path]:
            shard, metadata = _read_shard(path)
            for name in replaced:
                _replace(shard, *old.find(name), new.read(sources[name]))
            write_tensors(out / path.name, shard, metadata)
        else:
            link(path, out / path.name)
    copy_other_files(base, out)


def _replace(shard: dict[str, Tensor], name: str, row: int | None, value: Tensor) -> None:
    wider = torch.promote_types(shard[name].dtype, value.dtype)
    if row is None:
        shard[name] = value.to(wider)
    else:
        shard[name] = shard[name].to(wider)
        shard[name][row] = value.to(wider)


def check_fits(name: str, shape: list[int], base: TensorFiles, changed: Path) -> None:
    """Raise MethodError where the base has no tensor of a name and shape that the folder `changed` changes."""
    if not base.holds(name):
        raise MethodError(
            f"{changed} changes `{name}`, which {base.folder} does not have; it belongs to another backbone"
        )
    if shape != base.shape(name):
        raise MethodError(
            f"`{name}` is {shape} in {changed} and {base.shape(name)} in {base.folder}; it belongs to another backbone"
        )


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system cannot."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def copy_other_files(base: Path, out: Path) -> None:
    """Copy what is no weight file (configuration, tokenizer, shard index) from `base`, keeping what `out` has."""
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix not in WEIGHTS and not (out / path.name).exists():
            shutil.copy2(path, out / path.name)


def _shards(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise MethodError(f"{folder} holds no .safetensors file; it must be a checkpoint folder or an adapter")
    return paths


def _read_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
