"""Training low-rank updates of some routed experts: what every method of that kind shares, whatever chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.method import Context, Method

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.selection import Selection


class LowRankTraining(Method):
    """Train low-rank updates of selected experts (arXiv 2106.09685); all else is frozen.

    Attributes:
        rank: rank of the update of each projection of each selected expert.
        alpha: numerator of the scaling alpha / rank.
    """

    held_whole: ClassVar[str] = ""
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError for a model without routed experts."""
        from esft_bench.methods.moe.view import moe_layers

        super().check_model(model)
        moe_layers(model)

    def train_low_rank(self, model: PreTrainedModel, selection: Selection, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model and add updates of `selection`, valid for it, initialised from the cell's seed.

        Returns their factors. Raises MethodError where experts of this form cannot be trained or exported one by one.
        """
        import torch

        from esft_bench.methods.moe.export import check_exportable
        from esft_bench.methods.moe.low_rank import use_low_rank_experts

        model.requires_grad_(False)
        with torch.random.fork_rng():
            torch.manual_seed(context.seed)
            unread = context.unread is not None
            use_low_rank_experts(model, selection, self.rank, self.alpha / self.rank, unread)
        check_exportable(model)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the factors, two for each expert and projection."""
        from esft_bench.methods.moe.low_rank import write_low_rank

        write_low_rank(model, folder)

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write exactly the tensors that have an update, as they become."""
        from esft_bench.methods.moe.low_rank import write_updated

        write_updated(base, adapter, folder)
