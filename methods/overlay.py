"""Merging by overlay: a base checkpoint with some tensors replaced, made from safetensors alone, without a model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from safetensors import safe_open

from esft_bench.methods.atomic import write_json, write_tensors
from esft_bench.methods.errors import MethodError
from esft_bench.methods.hub import TIED, checkpoint_shapes
from esft_bench.methods.hub import WEIGHTS as ADAPTER_WEIGHTS
from esft_bench.methods.tensor_files import INDEX, TensorFiles, has_index, tensor_files, weight_files

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""Suffixes of weight files; every other file of a base folder (configuration, tokenizer) is taken over."""
MODEL_CONFIG = "config.json"
FLOATS = ("F64", "F32", "F16", "BF16")


def overlay(base: Path, changed: Path, out: Path, rename: Callable[[str], str] = str) -> None:
    """Write into `out` the checkpoint `base` with the tensors of the folder `changed` in place of its own.

    A tensor of `changed` named `NAME[7]` takes the place of row 7 of the base's `NAME`. Goes shard by shard; shards
    that do not change are linked, or copied across file systems. Replaced tensors keep the dtype they were trained in,
    so that what is served is what was trained, or the base's where that is the wider. `rename` maps a name in `changed`
    to its name in the base. A tensor that the base lacks and its architecture has is added.

    Raises MethodError, before anything is written, where a name, a shape or a type is not the base's; and where a
    number is not finite.
    """
    changes = changes_of(base, changed, rename)
    for path in weight_files(base):
        if names := [name for name in changes.parts if changes.home(name) == path]:
            _write_shard(path, out / path.name, names, changes)
        else:
            link(path, out / path.name)
    if changes.added and has_index(base):
        _write_index(base, out, {name: changes.home(name).name for name in changes.added})
    copy_other_files(base, out)


@dataclass(frozen=True)
class Changes:
    """What a folder of changed tensors changes in a base.

    Attributes:
        old: the base's tensors; `new`: the changed ones.
        sources: by name in the base, the changed tensor that takes its place.
        added: those of the names that the base lacks and its architecture has.
    """

    old: TensorFiles
    new: TensorFiles
    sources: dict[str, str]
    added: set[str]

    @cached_property
    def parts(self) -> dict[str, dict[int | None, str]]:
        """By name of each tensor of the base that changes, the rows that do (None for all of it) and their sources."""
        parts: dict[str, dict[int | None, str]] = {}
        for name, source in self.sources.items():
            tensor, row = (name, None) if name in self.added else self.old.find(name)
            parts.setdefault(tensor, {})[row] = source
        return parts

    def home(self, name: str) -> Path:
        """The file of the base that has the tensor; the first one for what is added."""
        return min(self.old.files.values()) if name in self.added else self.old.files[name]

    def applied(self, name: str, tensor: Tensor | None) -> Tensor:
        """What a tensor of the base becomes; None for one that is added.

        Raises MethodError where a number is not finite.
        """
        import torch

        for row, source in self.parts[name].items():
            value = read_finite(self.new, source)
            kind = value.dtype if tensor is None else torch.promote_types(value.dtype, tensor.dtype)
            if row is None or tensor is None:
                tensor = value.to(kind)
            else:
                tensor = tensor.to(kind, copy=True)
                tensor[row] = value.to(kind)
        return cast("Tensor", tensor)


def changes_of(base: Path, changed: Path, rename: Callable[[str], str] = str) -> Changes:
    """What the tensors of `changed` take the place of.

    Raises MethodError where one has no place there, or another shape, or is of no float type.
    """
    old, new = tensor_files(base), tensor_files(changed)
    sources = _with_tied({rename(name): name for name in new.files}, old, changed)
    added = _added(base, sources, old, new)
    for name, source in sources.items():
        if name not in added:
            check_fits(name, new.shape(source), old, changed)
        check_type(name, source, old, new)
    return Changes(old, new, sources, added)


def _with_tied(sources: dict[str, str], base: TensorFiles, changed: Path) -> dict[str, str]:
    """By name in the base, the changed tensor that takes its place: under every name that the base has tied weights by.

    A checkpoint may keep them under either name, or under both, and is loaded from each.
    """
    path = changed / TIED
    tied: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for alias, name in (*tied.items(), *((name, alias) for alias, name in tied.items())):
        if name in sources and alias not in sources and base.holds(alias):
            sources[alias] = sources[name]
            if not base.holds(name):
                del sources[name]
    return sources


def _added(base: Path, sources: Mapping[str, str], old: TensorFiles, new: TensorFiles) -> set[str]:
    """Names that the base lacks and a model of its configuration has, in this shape, and so are added to it."""
    lacking = {name: source for name, source in sources.items() if not old.holds(name)}
    if not lacking or not (base / MODEL_CONFIG).is_file():
        return set()
    shapes = checkpoint_shapes(base)
    return {name for name, source in lacking.items() if shapes.get(name) == new.shape(source)}


def _write_shard(path: Path, out: Path, names: Sequence[str], changes: Changes) -> None:
    """Write a shard with some of its tensors changed, or added."""
    shard, metadata = _read_shard(path)
    write_tensors(out, shard | {name: changes.applied(name, shard.get(name)) for name in names}, metadata)


@dataclass(frozen=True)
class Overlaid:
    """A base with changes in it, one after another, whose tensors are read one at a time."""

    base: TensorFiles
    changes: tuple[Changes, ...]

    @cached_property
    def names(self) -> set[str]:
        """Names of the tensors that change."""
        return {name for each in self.changes for name in each.parts}

    @cached_property
    def added(self) -> set[str]:
        """Those that the base lacks."""
        return {name for each in self.changes for name in each.added}

    def read(self, name: str) -> Tensor:
        """Read a tensor, changed or the base's. Raises MethodError where a number in a changed one is not finite."""
        tensor = self.base.read(name) if name in self.base.files else None
        for each in self.changes:
            if name in each.parts:
                tensor = each.applied(name, tensor)
        return cast("Tensor", tensor)


def overlaid(base: Path, changed: Sequence[Path]) -> Overlaid:
    """A base and folders of changed tensors, as `Method.write_changed` writes them. Raises MethodError as `overlay`."""
    return Overlaid(tensor_files(base), tuple(changes_of(base, folder) for folder in changed))


def take_changed(base: Path, adapter: Path, folder: Path, rename: Callable[[str], str] = str) -> None:
    """Write into `folder` an adapter that is nothing but changed tensors: its files, linked, or with other names.

    Raises MethodError where it does not fit `base`.
    """
    files = changes_of(base, adapter, rename).new
    if all(rename(name) == name for name in files.files):
        for path in weight_files(adapter):
            link(path, folder / path.name)
    else:
        write_tensors(folder / ADAPTER_WEIGHTS, {rename(name): files.read(name) for name in files.files})
    for name in (TIED, INDEX):
        if (adapter / name).is_file():
            link(adapter / name, folder / name)


def write_different(base: Path, whole: Path, folder: Path) -> None:
    """Write into `folder` the tensors, and the configuration, in which the checkpoint `whole` differs from `base`."""
    old, new = tensor_files(base), tensor_files(whole)
    different: dict[str, dict[str, Tensor]] = {path.name: {} for path in weight_files(whole)}
    for name, path in new.files.items():
        value = new.read(name)
        if not (name in old.files and value.equal(old.read(name).to(value.dtype))):
            different[path.name][name] = value
    for file, tensors in different.items():
        write_tensors(folder / file, tensors)
    if (whole / TIED).is_file():
        link(whole / TIED, folder / TIED)
    config = whole / MODEL_CONFIG
    if config.is_file() and json.loads(config.read_text("utf-8")) != json.loads(
        (base / MODEL_CONFIG).read_text("utf-8")
    ):
        link(config, folder / MODEL_CONFIG)


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


def check_type(name: str, source: str, base: TensorFiles, changed: TensorFiles) -> None:
    """Raise MethodError where the tensor `source` is to replace the base's `name` and is not of a float type."""
    kind = changed.dtype(source)
    if kind not in FLOATS and not (base.holds(name) and kind == base.dtype(name)):
        raise MethodError(
            f"`{source}` in {changed.folder} is of type {kind}, quantised or no weight at all; save it as float "
            "(with its scales multiplied in)"
        )


def read_finite(files: TensorFiles, name: str) -> Tensor:
    """Read a tensor. Raises MethodError where a number in it is not finite."""
    value = files.read(name)
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise MethodError(f"`{name}` in {files.folder} has numbers that are not finite; train or fetch it again")
    return value


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system cannot."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def copy_other_files(base: Path, out: Path) -> None:
    """Copy what is no weight file (configuration, tokenizer, shard index) from `base`, keeping what `out` has."""
    for path in sorted(base.iterdir()):
        stale = path.name.endswith(".index.json") and not (path.name == INDEX and has_index(base))
        if path.is_file() and path.suffix not in WEIGHTS and not stale and not (out / path.name).exists():
            shutil.copy2(path, out / path.name)


def _write_index(base: Path, out: Path, added: Mapping[str, str]) -> None:
    """Write the base's index with the added tensors."""
    index = json.loads((base / INDEX).read_text("utf-8"))
    write_json(out / INDEX, index | {"weight_map": index["weight_map"] | dict(added)})


def _read_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
