"""The base model as it is: the row of a table that the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.method import Context, Method
from esft_bench.methods.overlay import copy_other_files, link
from esft_bench.methods.tensor_files import weight_files

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class UntrainedBase(Method):
    """Train nothing: the backbone as it is."""

    name: ClassVar[str] = "base"
    trains: ClassVar[bool] = False

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze everything; nothing to train."""
        model.requires_grad_(False)
        return []

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write nothing: nothing changed."""

    def merge(self, base: Path, adapter: Path, out: Path) -> None:
        """Link the base checkpoint's weights into `out` and copy its other files."""
        for path in weight_files(base):
            link(path, out / path.name)
        copy_other_files(base, out)
