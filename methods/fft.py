"""Full fine-tuning: every parameter is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.grouped_experts import GroupedExperts
from esft_bench.methods.hub import write_tied
from esft_bench.methods.method import Context
from esft_bench.methods.overlay import take_changed

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class FullFineTuning(GroupedExperts):
    """Train all parameters; the export is a whole checkpoint.

    With a `group_size`, those of the coarse-grained model that groups of experts simulate.
    """

    name: ClassVar[str] = "fft"

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Unfreeze the model and return all its parameters."""
        from esft_bench.methods.moe.experts import use_fast_experts

        if self.group_size > 1:
            self.group(model, context)
        model.requires_grad_(True)
        use_fast_experts(model)
        return list(model.parameters())

    def also_written(self, model: PreTrainedModel) -> Sequence[str]:
        """The buffers that a checkpoint has."""
        return sorted(model.state_dict().keys() - {name for name, _ in model.named_parameters(remove_duplicate=False)})

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write all tensors under their names in hub checkpoints, a tensor for each expert and projection."""
        if self.group_size > 1:
            from esft_bench.methods.moe.grouping import settle_routers

            settle_routers(model)
        model.save_pretrained(folder)
        write_tied(model, folder)

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write every tensor."""
        self.merge_config(base, folder)
        take_changed(base, adapter, folder)
