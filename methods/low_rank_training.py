"""Training low-rank updates of some routed experts: what every method of that kind shares, whatever chooses them."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from esft_bench.methods.checkpoint import overlay
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.layout import check_exportable
from esft_bench.methods.moe.low_rank import use_low_rank_experts, write_low_rank, write_updated
from esft_bench.methods.moe.selection import Selection
from esft_bench.methods.moe.view import moe_layers


class LowRankTraining(Method):
    """Train low-rank updates of selected experts (arXiv 2106.09685); all else is frozen.

    Attributes:
        rank: rank of the update of each projection of each selected expert.
        alpha: numerator of the scaling alpha / rank.
    """

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError for a model without routed experts."""
        super().check_model(model)
        moe_layers(model)

    def train_low_rank(self, model: PreTrainedModel, selection: Selection, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model and add updates of `selection`, valid for it, initialised from the cell's seed.

        Returns their factors. Raises MethodError where experts of this form cannot be trained or exported one by one.
        """
        model.requires_grad_(False)
        with torch.random.fork_rng():
            torch.manual_seed(context.seed)
            use_low_rank_experts(model, selection, self.rank, self.alpha / self.rank)
        check_exportable(model)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the factors, two for each expert and projection."""
        write_low_rank(model, folder)

    def merge(self, base: Path, adapter: Path, out: Path) -> None:
        """Write `base` with the updates added to exactly the tensors that have one."""
        with TemporaryDirectory(dir=out.parent, prefix=".merge-") as folder:
            self.write_changed(base, adapter, Path(folder))
            overlay(base, Path(folder), out)

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write into `folder` the tensors of `base` that `adapter` changes, as they become."""
        write_updated(base, adapter, folder)
