"""Checkpoints of a training run: trained weights, optimizer and random states and the log, sharded (torch's DCP).

Each process writes its own shards, in the background where there are several or an accelerator, while training goes on;
whatever number of processes goes on from them, or exports, reads what it needs. A manifest, written last and renamed,
says which folder of shards counts: until then the checkpoint before does.

The manifest says which training it is of and bears digests of all files, so that none that is damaged, or another's, is
gone on from. They are XXH3, since weights and optimizer states are many bytes and written often; it tells damage, not
forgery.
"""

import json
import os
import secrets
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, wraps
from pathlib import Path
from typing import Any, Self, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, distributed
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor
from xxhash import xxh3_128

from esft_bench.harness.training.log import LOGGED, logged, read_log
from esft_bench.harness.training.state import STEPS, State, make_states
from esft_bench.methods.atomic import write_json
from esft_bench.spec.files import canonical, remove

CHECKPOINT = "checkpoint.json"
"""The manifest: what makes a checkpoint one."""
SHARDS = "checkpoint-{step}-{run}"
"""The folder that the shards of a step's checkpoint are in; no two runs write into the same."""
DIGEST = "digest"
METADATA = ".metadata"
CHANGES = "changes/"
"""What the names of tensors begin with that say what is trained, where that changes."""


class Writer:
    """Writes checkpoints, one at a time; as a context it ends when the last one is written.

    Every process has one and calls the same of it. Where processes train together, or on an accelerator, training goes
    on from the moment that tensors are copied to main memory; elsewhere that would only hold them twice.
    """

    def __init__(self, *folders: Path) -> None:
        """`folders` are those it will write into; what a writing that was cut off has left there goes."""
        _tidy(folders)
        self._together = distributed.is_initialized()
        self._beside = self._together or torch.cuda.is_available()
        # A group of its own: what the thread sends must not get between what the training sends.
        self._group = distributed.new_group(backend="gloo") if self._together else None
        self._run = broadcast_object_list([secrets.token_hex(4)])[0]
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.finish()
        self._thread.shutdown()
        if self._group is not None:
            distributed.destroy_process_group(self._group)

    def save(self, folder: Path, state: State, step: int, *, resumable: bool = True) -> None:
        """Begin a checkpoint in `folder`, when the one before is written.

        Not `resumable` it holds weights and log alone: the run is over.
        """
        self.finish()
        tensors, into = _tensors(state, resumable), folder / SHARDS.format(step=step, run=self._run)
        told: dict[str, Any] = {"checkpoint_id": into, "no_dist": not self._together}
        about = {"step": step, "training": state.training, "shards": into.name}
        if self._beside:
            done = cast(Future[Any], state_dict_saver.async_save(tensors, process_group=self._group, **told))
            self._pending = self._thread.submit(_complete, done.result, folder, about)
        else:
            _complete(partial(_alone(state_dict_saver.save), tensors, **told), folder, about)

    def finish(self) -> None:
        """Wait until what was begun is written. Raises what hindered it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def forget(self, *folders: Path) -> None:
        """Remove the checkpoints in some folders, and what is being written."""
        self.finish()
        forget(*folders)


def _complete(write: Callable[[], Any], folder: Path, about: dict[str, Any]) -> None:
    """When all shards are written, have the manifest say so, and drop the shards it said so of before."""
    try:
        write()
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error  # what went wrong, without the other processes' stacks
    if not PartialState().is_main_process:
        return
    shards = folder / about["shards"]
    manifest = about | {"files": {name: _digest_of(shards / name) for name in _files(shards)}}
    write_json(folder / CHECKPOINT, manifest | {DIGEST: _seal(manifest)})
    _drop(folder, keep=about["shards"])


def _files(shards: Path) -> list[str]:
    """The files of a checkpoint, as it says itself: a folder's list may be old where other machines write into it."""
    told = FileSystemReader(shards).read_metadata().storage_data
    return sorted({METADATA, *(each.relative_path for each in told.values())})


def _alone(work: Callable[..., Any]) -> Callable[..., Any]:
    """What DCP does in one process, without its warning that it is one."""

    @wraps(work)
    def quiet(*arguments: Any, **told: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            return work(*arguments, **told)

    return quiet


def _tensors(state: State, resumable: bool) -> dict[str, Tensor]:
    """What a checkpoint holds of this process: shards, and what all have alike."""
    tensors = {f"weight/{name}": weight for name, weight in state.weights.items()}
    if state.changes:
        tensors |= {f"{CHANGES}{name}": tensor for name, tensor in state.changes.state_dict().items()}
    if resumable:
        tensors |= {f"state/{name}": tensor for name, tensor in state.moments.items()}
        tensors |= {_own(kind): read() for kind, (read, _) in _generators().items()}
    return tensors | logged(state.log)


def _own(kind: str) -> str:
    """The name of the state of this process's generator of a kind."""
    return f"random/{kind}/{PartialState().process_index}"


def load(folder: Path, state: State) -> int:
    """Load the checkpoint in `folder`, if there is one, into `state`; returns the steps done.

    The random generators go on where they stood. A process that had no part in the run before keeps its own.
    """
    path = folder / CHECKPOINT
    reads = PartialState().is_main_process and path.exists()  # one for all: machines may see a change one after another
    (manifest,) = broadcast_object_list([json.loads(path.read_text("utf-8")) if reads else None])
    if manifest is None:
        return 0
    reader = FileSystemReader(folder / manifest["shards"])
    kept = reader.read_metadata().state_dict_metadata
    if state.changes:
        _change(state, _empty(kept, [name for name in kept if name.startswith(CHANGES)]), reader)
    wanted = {f"weight/{name}": weight for name, weight in state.weights.items()}
    remembered = [name for name in state.names if f"state/{STEPS}/{name}" in kept]  # what began just then is not
    if state.optimizer and remembered:
        make_states(state.model, remembered, state.optimizer)
        wanted |= {f"state/{name}": tensor for name, tensor in state.moments.items()}
    random = {_own(kind): (read(), restore) for kind, (read, restore) in _generators().items() if _own(kind) in kept}
    log = _empty(kept, LOGGED)
    drawn = {name: place for name, (place, _) in random.items()}
    _alone(state_dict_loader.load)(_as_kept(wanted, kept) | drawn | log, storage_reader=reader, no_dist=True)
    for place, restore in random.values():
        restore(place)
    read_log(log, state.log)
    return int(manifest["step"])


def _as_kept(wanted: Mapping[str, Tensor], kept: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same tensors, row by row where a checkpoint keeps them so: processes that held some rows each wrote them."""
    found: dict[str, Tensor] = {}
    for name, tensor in wanted.items():
        by_row = name not in kept and f"{name}[0]" in kept
        found |= {f"{name}[{row}]": own for row, own in enumerate(tensor)} if by_row else {name: tensor}
    return found


def _empty(kept: Mapping[str, Any], names: Iterable[str]) -> dict[str, Tensor]:
    """Room for some of the tensors that a checkpoint has, as far as it has them."""
    told = {name: kept[name] for name in names if isinstance(kept.get(name), TensorStorageMetadata)}
    return {name: torch.empty(each.size, dtype=each.properties.dtype) for name, each in told.items()}


def _change(state: State, room: dict[str, Tensor], reader: FileSystemReader) -> None:
    """Have a state train what was trained; the parameters' values and states are still to be read."""
    _alone(state_dict_loader.load)(room, storage_reader=reader, no_dist=True)
    assert state.changes is not None
    state.changes.load_state_dict({name.removeprefix(CHANGES): tensor for name, tensor in room.items()})
    state.retarget({})


def fault(folder: Path, training: str) -> str:
    """What is wrong with the checkpoint in `folder`, all of which is read; empty where nothing is or there is none."""
    path = folder / CHECKPOINT
    if not os.path.lexists(path):
        return ""
    try:
        written = path.read_text("utf-8")
        manifest = json.loads(written)
        sealed = manifest.pop(DIGEST, "") == _seal(manifest)
        shards, files = (folder / manifest["shards"], manifest["files"]) if sealed else (folder, {})
        if not sealed or any(_digest_of(shards / name) != digest for name, digest in files.items()):
            return f"{path} is not what was written"
    except (OSError, AttributeError, TypeError, ValueError, RecursionError) as error:
        return f"{path} cannot be read ({error})"
    return "" if manifest["training"] == training else f"{path} is of another training"


def _seal(manifest: Mapping[str, Any]) -> str:
    """A digest of what a manifest says."""
    return xxh3_128(canonical(manifest).encode()).hexdigest()


def _digest_of(path: Path) -> str:
    """A digest of a file."""
    total = xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def forget(*folders: Path) -> None:
    """Remove the checkpoints in some folders: nothing is to go on from there. Every process may call this."""
    for folder in folders:
        remove(folder / CHECKPOINT)
        _drop(folder)


def _tidy(folders: Iterable[Path]) -> None:
    """Remove what a writing that was cut off has left in some folders; the main process, before anything is written."""
    for folder in folders if PartialState().is_main_process else ():
        path = folder / CHECKPOINT
        _drop(folder, json.loads(path.read_text("utf-8"))["shards"] if path.exists() else "")


def _drop(folder: Path, keep: str = "") -> None:
    """Remove all folders of shards but one."""
    for shards in folder.glob(SHARDS.format(step="*", run="*")):
        if shards.name != keep:
            remove(shards)


def _generators() -> Mapping[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]]:
    """How to read and restore the generators that models draw from in training (dropout, jitter), by device."""
    found = {"cpu": (torch.get_rng_state, torch.set_rng_state)}
    if torch.cuda.is_available():
        found["cuda"] = (torch.cuda.get_rng_state, torch.cuda.set_rng_state)
    return found


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that processes may share; all of them must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
