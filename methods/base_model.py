"""The base model as it is: the row of a table that the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.atomic import write_tensors
from esft_bench.methods.hub import WEIGHTS
from esft_bench.methods.method import Context, Method

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class UntrainedBase(Method):
    """Train nothing: the backbone as it is."""

    name: ClassVar[str] = "base"
    trains: ClassVar[bool] = False
    held_whole: ClassVar[str] = ""

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze everything; nothing to train."""
        model.requires_grad_(False)
        return []

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write nothing: nothing changed."""

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write that nothing changes."""
        write_tensors(folder / WEIGHTS, {})
