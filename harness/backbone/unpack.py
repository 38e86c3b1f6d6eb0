"""A quantised checkpoint written as bfloat16, file by file: never more than one file's tensors are in memory.

    X, X_scale_inv        X is float8_e4m3fn   → X      (FP8; X of any name, most often `….weight`)
    X_blocks, X_scales    both are uint8       → X      (MXFP4)

All other tensors stay as they are.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from esft_bench.harness.backbone.dequantise import from_fp8, from_mxfp4
from esft_bench.harness.backbone.packing import QUANTISED, Packing, read_config
from esft_bench.methods.atomic import write_json, write_tensors
from esft_bench.methods.errors import MethodError
from esft_bench.methods.tensor_files import INDEX, SINGLE, TensorFiles, tensor_files
from esft_bench.spec.errors import NoSpaceError, UserError
from esft_bench.spec.progress import Progress

GIB, MIB = 2**30, 2**20
BF16 = 2
FILE_BYTES = 4 * GIB
"""A written file holds no more, unless one tensor is larger."""
WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "BOOL": 1}
"""Bytes of the numbers that are taken as they are; what is narrower is quantised."""
SCALES = {"fp8": ("", "_scale_inv", "F8_E4M3"), "mxfp4": ("_blocks", "_scales", "U8")}
"""By format: how the names of quantised tensors and of their scales end, and the former's type."""
GROWTH = {"fp8": 2.0, "mxfp4": 64 / 17}
"""How much larger bfloat16 is: than a byte, than half a byte and the 32nd of one."""
CONFIG = "config.json"
KEPT = {".json", ".model", ".txt", ".jinja", ".py"}


@dataclass(frozen=True)
class Unpacked:
    """A tensor that is to be written: its name, what it is read from (and that one's scales), and its bytes."""

    name: str
    source: str
    scales: str
    size: int


def contents(files: TensorFiles, packing: Packing) -> list[Unpacked]:
    """What an unpacked checkpoint will hold, in the order in which it is read, from the headers alone.

    Raises UserError naming a tensor that is quantised and has no scales, or is of a type that is not known.
    """
    ending, scaled_by, packed = SCALES[packing.quant_method]
    found = []
    for source in sorted(files.files, key=lambda name: (files.files[name], name)):
        if source.removesuffix(scaled_by) + ending in files.files and source.endswith(scaled_by):
            continue
        kind, size = files.dtype(source), prod(files.shape(source))
        if kind in WIDTHS:
            found.append(Unpacked(source, source, "", WIDTHS[kind] * size))
            continue
        name = source.removesuffix(ending)
        scales = name + scaled_by
        if kind != packed or not source.endswith(ending):
            raise UserError(
                f"{files.folder}: `{source}` is of type {kind}, which no {packing.title} checkpoint has there: take "
                "the one it was made from, in bfloat16."
            )
        if scales not in files.files:
            raise UserError(
                f"{files.folder}: `{source}` is quantised, and its scales `{scales}` are missing: fetch the checkpoint "
                "again."
            )
        numbers = size * (2 if packing.quant_method == "mxfp4" else 1)
        found.append(Unpacked(name, source, scales, BF16 * numbers))
    return found


def unpack(source: Path, packing: Packing, scratch: Path, out: Path, progress: Progress) -> None:
    """Write the unpacked checkpoint into the empty folder `out`.

    Files are written whole into `scratch`, on the same disk, and moved when all are there: what another attempt left
    there is not written again. Progress is told in MiB. Raises UserError where the checkpoint is damaged; NoSpaceError
    where the disk has less room than it will take.
    """
    for leftover in scratch.glob(".*.tmp"):
        leftover.unlink()
    files = tensor_files(source)
    parts = _parts(contents(files, packing))
    left = {name: part for name, part in parts.items() if not (scratch / name).exists()}
    _check_room(out, _size(left.values()))
    total = _size(parts.values())
    done = total - _size(left.values())
    for name, part in left.items():
        progress(done // MIB, total // MIB)
        write_tensors(scratch / name, {one.name: _read(files, one, packing) for one in part})
        done += _size([part])
    progress(total // MIB, total // MIB)
    for name in parts:
        (scratch / name).rename(out / name)
    if len(parts) > 1:
        where = {one.name: name for name, part in parts.items() for one in part}
        write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    for path in source.iterdir():
        if path.suffix in KEPT and path.name not in (INDEX, CONFIG):
            shutil.copyfile(path, out / path.name)
    config = {name: value for name, value in read_config(source).items() if name != QUANTISED}
    write_json(out / CONFIG, config)


def size_of(source: Path, packing: Packing) -> tuple[int, bool] | None:
    """Bytes of the unpacked weights, and whether that is exact.

    Where the checkpoint's own are not here it is what they can take at most by the index; None without one.
    """
    try:
        files = tensor_files(source)
    except MethodError:
        with suppress(OSError, ValueError, KeyError, TypeError):
            total = json.loads((source / INDEX).read_text("utf-8"))["metadata"]["total_size"]
            return int(total * GROWTH[packing.quant_method]), False
        return None
    return _size([contents(files, packing)]), True


def _parts(tensors: list[Unpacked]) -> dict[str, list[Unpacked]]:
    """The files to write, by name, each with its tensors in order."""
    parts: list[list[Unpacked]] = [[]]
    for tensor in tensors:
        if parts[-1] and _size([parts[-1]]) + tensor.size > FILE_BYTES:
            parts.append([])
        parts[-1].append(tensor)
    if len(parts) == 1:
        return {SINGLE: parts[0]}
    stem = SINGLE.removesuffix(".safetensors")
    return {f"{stem}-{number:05}-of-{len(parts):05}.safetensors": part for number, part in enumerate(parts, 1)}


def _size(parts: Iterable[Sequence[Unpacked]]) -> int:
    return sum(one.size for part in parts for one in part)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpaceError(
            f"The unpacked backbone takes {needed / GIB:.1f} GiB more, and {folder.parent} has {free / GIB:.1f} GiB "
            "free: free some, or choose another --run-dir."
        )


def _read(files: TensorFiles, tensor: Unpacked, packing: Packing) -> Tensor:
    """A tensor's numbers. Raises UserError where they do not fit together, or some are none."""
    packed = files.read(tensor.source)
    if not tensor.scales:
        return packed
    try:
        read = _dequantised(packed, files.read(tensor.scales), packing)
    except ValueError as error:
        raise UserError(f"{files.folder}: `{tensor.source}`: {error}: fetch the checkpoint again.") from error
    if not read.isfinite().all():
        raise UserError(
            f"{files.folder}: `{tensor.source}` with its scales holds what is no finite number: fetch the checkpoint "
            "again."
        )
    return read


def _dequantised(packed: Tensor, scales: Tensor, packing: Packing) -> Tensor:
    """A matrix, or each matrix of a layer's experts."""
    of_one = 2 if packing.quant_method == "fp8" else 3
    if packed.dim() == of_one + 1 and 0 < len(packed) == len(scales):
        first = _dequantised(packed[0], scales[0], packing)
        out = first.new_empty(len(packed), *first.shape)
        for place, one, its in zip(out, packed, scales, strict=True):  # one by one: in float32 all are twice as large
            place.copy_(_dequantised(one, its, packing))
        return out
    if packed.dim() != of_one:
        raise ValueError(f"it is of shape {list(packed.shape)} and its scales of {list(scales.shape)}")
    if packing.quant_method == "mxfp4":
        return from_mxfp4(packed, scales)
    return from_fp8(packed, scales, packing.weight_block_size)
