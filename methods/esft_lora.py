"""LoRA on the selected experts only: ESFT's choice of experts (arXiv 2407.01906), LoRA's updates (arXiv 2106.09685).

A combination that people ask for; the ESFT paper trains its experts in full.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from methods.checkpoint import overlay
from methods.esft import ThresholdSelection
from methods.expert_training import chosen_experts
from methods.method import Context, Method
from methods.moe.layout import check_exportable
from methods.moe.low_rank import use_low_rank_experts, write_low_rank, write_updated
from methods.moe.scores import Score


class EsftLora(ThresholdSelection, Method):
    """Train low-rank updates of the selected experts; ESFT-Gate's selection and the ESFT paper's LoRA by default.

    Attributes:
        rank: rank of the update of each projection of each selected expert.
        alpha: numerator of the scaling alpha / rank.
    """

    needs_profile: ClassVar[bool] = True
    score: Score = "gate"
    p: float = Field(default=0.1, gt=0, le=1)
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model and add the updates, in place, initialised from the cell's seed; return their factors.

        Raises MethodError as ESFT does.
        """
        selection = chosen_experts(model, context, self.select)
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
            write_updated(base, adapter, Path(folder))
            overlay(base, Path(folder), out)
