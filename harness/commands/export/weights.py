"""Writing a cell's weights: the adapter in its community's form, the merged checkpoint, or both."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from esft_bench.harness.commands.export.choice import Chosen
from esft_bench.harness.merging import merged
from esft_bench.harness.store.names import ADAPTER
from esft_bench.methods.errors import MethodError
from esft_bench.methods.lora_adapter import CONFIG as PEFT
from esft_bench.methods.moe.layout import CONFIG as ESFT
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import full_disk_is_a_sentence, remove, sync, write_json

Form = Literal["merged", "adapter", "both"]
FORMS: tuple[Form, ...] = ("merged", "adapter", "both")
SMALL = ("tokenizer*", "special_tokens_map.json", "chat_template*", "vocab*", "merges.txt", "*.model")
"""Files of a tokenizer, which goes with an adapter as with a checkpoint."""


def community(chosen: Chosen) -> str:
    """Whose form the cell's adapter has: `peft` or `esft`; empty where nobody else reads it."""
    if len(chosen.trainings) > 1:
        return ""
    adapter = chosen.trainings[0].folder / ADAPTER
    return "peft" if (adapter / PEFT).is_file() else "esft" if (adapter / ESFT).is_file() else ""


def write(chosen: Chosen, form: Form, out: Path, describe: Callable[[Path], object]) -> None:
    """Write the folder `out`, whole or not at all; `describe` adds the model card to it.

    With `both` the adapter is in `adapter/`. Raises UserError where the folder is there, or where an adapter is asked
    for that has no form which others read.
    """
    if os.path.lexists(out):
        raise UserError(f"{out} is there already: name a folder that is not.")
    if form != "merged" and not community(chosen):
        raise UserError(
            f"The adapter of {chosen.about.method_title} on {chosen.about.task} has no form that other tools read: "
            "export it with --form merged."
        )
    with full_disk_is_a_sentence(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        with full_disk_is_a_sentence(out):
            if form != "adapter":
                _merge(chosen, beside)
            if form != "merged":
                _adapter(chosen, beside if form == "adapter" else beside / "adapter")
            describe(beside)
            for path in beside.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            sync(beside)
            beside.chmod(0o755)
            beside.rename(out)
    finally:
        remove(beside)


def _merge(chosen: Chosen, folder: Path) -> None:
    """The plain Hugging Face checkpoint."""
    try:
        with merged(chosen.backbone, [one.folder for one in chosen.trainings], folder / ".merging") as checkpoint:
            for path in sorted(checkpoint.iterdir()):
                shared = path.stat().st_nlink > 1  # with the backbone: what is given away must not be its file
                (shutil.copyfile if shared else shutil.move)(path, folder / path.name)
    except (MethodError, FileNotFoundError) as error:
        raise UserError(f"The backbone {chosen.backbone} does not take the adapter: {error}.") from error


def _adapter(chosen: Chosen, folder: Path) -> None:
    """The adapter as it is kept, with the backbone's name in peft's configuration, and the tokenizer."""
    shutil.copytree(chosen.trainings[-1].folder / ADAPTER, folder, dirs_exist_ok=True)
    for path in (path for pattern in SMALL for path in chosen.backbone.glob(pattern) if path.is_file()):
        shutil.copyfile(path, folder / path.name)
    if community(chosen) == "peft":
        config = json.loads((folder / PEFT).read_text("utf-8"))
        write_json(folder / PEFT, config | {"base_model_name_or_path": named(chosen)})


def named(chosen: Chosen) -> str:
    """The backbone by the name that others know: that on the hub, else its folder here."""
    return chosen.content.manifest.suite.backbone.path if on_hub(chosen) else str(chosen.backbone)


def on_hub(chosen: Chosen) -> bool:
    """Whether the backbone was named as it is on the hub."""
    path = chosen.content.manifest.suite.backbone.path
    return path.count("/") == 1 and not Path(path).exists()
