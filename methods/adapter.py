"""A released adapter as a row of its own: nothing is trained, what others trained is merged and tested."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods import lora_adapter
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.layout import CONFIG as ESFT_CONFIG
from esft_bench.methods.moe.layout import base_name
from esft_bench.methods.overlay import read_finite, take_changed
from esft_bench.methods.tensor_files import tensor_files

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

FILES = ("*.json", "*.safetensors")
PLACE = "{task}"


class Adapter(Method):
    """Train nothing; merge an official ESFT adapter or a peft LoRA adapter, from a folder or the hub.

    Attributes:
        path: a folder, or a name on the hub; `{task}` in it stands for the cell's task, so that each task has its own.
            Without `{task}` the row is one cell, tested on every task.
        revision: the commit on the hub, which a name there must have.
        layout: `expert-major` for LoRA adapters that unsloth packed before September 2026. They have the same shapes as
            peft's and nothing in them tells; the wrong layout gives a model that answers much worse.
        tasks: what stands for `{task}` where that is not the task's name.
    """

    name: ClassVar[str] = "adapter"
    trains: ClassVar[bool] = False
    held_whole: ClassVar[str] = ""
    of_one_backbone: ClassVar[bool] = True
    path: str = Field(min_length=1)
    revision: str | None = None
    layout: lora_adapter.Layout = "peft"
    tasks: Mapping[str, str] = {}

    @property
    def by_task(self) -> bool:
        """One adapter for each task where the path says so."""
        return PLACE in self.path

    def for_task(self, task: str) -> Adapter:
        """The same with the path of a task's adapter."""
        path = self.path.replace(PLACE, self.tasks.get(task, task))
        return self.model_copy(update={"path": path, "tasks": {}})

    def source(self, backbone: Path) -> Path:
        """The adapter's folder, fetched from the hub if need be and checked to fit `backbone`.

        Raises MethodError where it cannot be had, is no adapter of either kind or belongs to another backbone.
        """
        folder = self._locate()
        if (folder / ESFT_CONFIG).is_file():
            if self.layout != "peft":
                raise MethodError(f"{folder} has ESFT's layout; `layout` is for LoRA adapters, leave it out")
            from esft_bench.methods.moe.adapter_check import check_adapter  # here: it brings torch along

            check_adapter(folder, backbone)
            files = tensor_files(folder)
            for name in files.files:
                read_finite(files, name)
        elif (folder / lora_adapter.CONFIG).is_file():
            lora_adapter.check(folder, backbone, self.layout)
        else:
            raise MethodError(
                f"{folder} holds neither {ESFT_CONFIG} (ESFT) nor {lora_adapter.CONFIG} (peft): it is no adapter"
            )
        return folder

    @property
    def other_readings(self) -> Sequence[Method]:
        """The other layout of a LoRA adapter that packs a layer's experts in one tensor: the shapes are the same."""
        folder = self._locate()
        if (folder / ESFT_CONFIG).is_file() or not lora_adapter.is_packed(folder):
            return ()
        other = "expert-major" if self.layout == "peft" else "peft"
        return (self.model_copy(update={"layout": other}),)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze everything; nothing to train."""
        model.requires_grad_(False)
        return []

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Copy the adapter as it is."""
        source = self._locate()
        for path in sorted(path for pattern in FILES for path in source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write the adapter's tensors, or those that its updates change."""
        if (adapter / ESFT_CONFIG).is_file():
            from esft_bench.methods.moe.adapter_check import check_adapter

            check_adapter(adapter, base)
            take_changed(base, adapter, folder, rename=base_name)
        else:
            lora_adapter.write_changed(adapter, base, folder, self.layout)

    def _locate(self) -> Path:
        """The adapter's folder here, or a snapshot of it from the hub."""
        folder = Path(self.path).expanduser()
        if folder.is_dir():
            return folder
        if self.revision is None:
            raise MethodError(f"'{self.path}' is no folder here; for a name on the hub give its `revision` too")
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.path, revision=self.revision, allow_patterns=list(FILES)))
        except Exception as error:  # the hub client raises a dozen kinds; to the user they are one
            raise MethodError(
                f"'{self.path}' is no folder here and revision {self.revision} could not be had from the hub "
                f"({type(error).__name__}): give a folder, or check name, revision and connection"
            ) from error
