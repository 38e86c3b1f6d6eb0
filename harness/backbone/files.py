"""A backbone's checkpoint: where it lies, and a digest of what it is. Imports nothing that computes."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from esft_bench.harness.backbone.packing import packing
from esft_bench.harness.store.notes import Notes
from esft_bench.methods.tensor_files import tensor_files
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_files, digest_of_text
from esft_bench.spec.suite import Backbone

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""What transformers loads: the one file, or the shards that the index names. No other copy is fetched."""
OTHERS = ["*.json", "*.model", "*.txt", "*.jinja"]
CODE = "*.py"
NOTES = "backbones"
"""The store's folder of notes that keeps digests."""
READ = {".json", ".model", ".txt", ".jinja", ".py"}


def locate(backbone: Backbone, weights: bool = True) -> Path:
    """The folder of a backbone's checkpoint: the one that ships, a local folder, or a hub snapshot (downloaded).

    Without `weights`, what says of which shapes they are is enough, and no more is downloaded. Raises UserError where
    it is neither.
    """
    if backbone.path == "mini":
        from esft_bench.tasks.mini import BACKBONE

        return BACKBONE
    folder = Path(backbone.path).expanduser()
    if folder.is_dir():
        _check_config(folder / CONFIG)
        return folder
    from huggingface_hub import snapshot_download

    fetch = partial(snapshot_download, backbone.path, revision=backbone.revision)
    try:
        folder = Path(fetch(allow_patterns=[*OTHERS, *([CODE] if backbone.trust_remote_code else [])]))
        _check_config(folder / CONFIG)
        return Path(fetch(allow_patterns=_weights_of(folder))) if weights else folder
    except UserError:
        raise
    except Exception as error:  # the hub client raises a dozen kinds; to the user they are one
        raise UserError(
            f"backbone.path: '{backbone.path}' is no folder here and could not be had from the hub "
            f"({type(error).__name__}): give a folder, or check name, revision and connection."
        ) from error


def _check_config(path: Path) -> None:
    """Raise UserError, naming file and field, where a checkpoint's configuration cannot be one that is used here."""
    if not path.is_file():
        raise UserError(f"backbone.path: {path.parent} holds no {CONFIG}, so it is no Hugging Face checkpoint.")
    again = "write or fetch the checkpoint again"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"backbone.path: {path} is not JSON ({str(error)[:200]}): {again}.") from error
    if not isinstance(config, dict):
        raise UserError(f"backbone.path: {path} holds no JSON object: {again}.")
    if not isinstance(config.get("model_type"), str):
        raise UserError(f"backbone.path: {path}, model_type: it must name a kind of model: {again}.")
    packing(path.parent)


def _weights_of(folder: Path) -> list[str]:
    """The names of the weight files of a checkpoint whose other files lie in `folder`."""
    if not (folder / INDEX).exists():
        return [WEIGHTS]
    return sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))


def digest(folder: Path, notes: Notes, weights: bool = True) -> str:
    """A digest of the checkpoint's contents, noted under its files' names, sizes and times.

    Raises UserError where `weights` are asked for and there are none, or a file of theirs is missing or damaged.
    """
    files = _files(folder, weights)
    stamp = _stamp(files)
    noted = {name: notes.read(name) for name in ([stamp, _without(folder, notes)] if weights else [stamp])}
    said = noted[stamp] or {"folder": folder.name, "digest": digest_of_files(files, folder)}
    for name in noted:
        if noted[name] != said:
            notes.write(name, said)
    return str(said["digest"])


def known_digest(folder: Path, notes: Notes) -> str:
    """The digest that a run finds, as far as it is known without reading weights; else one of all but those.

    Where the weights are not there (any more), it is that of the checkpoint that had them, by its folder's name and its
    other files: enough to look at what a run has left, not to carry one out.
    """
    try:
        said = notes.read(_stamp(_files(folder)))
    except UserError:
        said = notes.read(_without(folder, notes))
    return str(said["digest"]) if said else digest(folder, notes, weights=False)


def _files(folder: Path, weights: bool = True) -> list[Path]:
    """The files that make a checkpoint what it is."""
    files = [path for path in folder.iterdir() if path.suffix in READ]
    if weights:
        if not any(folder.glob("*.safetensors")):
            raise UserError(f"{folder} holds no *.safetensors: convert the checkpoint first, no others are loaded.")
        files += set(tensor_files(folder).files.values())
    return files


def _stamp(files: Iterable[Path]) -> str:
    """What changes where somebody touches files."""
    return digest_of_text(canonical(sorted([p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files)))


def _without(folder: Path, notes: Notes) -> str:
    """What a checkpoint's digest is noted under for when its weights are not there."""
    return digest_of_text(f"{folder.name} without weights: {digest(folder, notes, weights=False)}")
