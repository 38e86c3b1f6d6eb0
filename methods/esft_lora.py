"""LoRA on the selected experts only: ESFT's choice of experts (arXiv 2407.01906), LoRA's updates (arXiv 2106.09685).

A combination that people ask for; the ESFT paper trains its experts in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.esft import ThresholdSelection
from esft_bench.methods.expert_training import chosen_experts
from esft_bench.methods.low_rank_training import LowRankTraining
from esft_bench.methods.method import Context
from esft_bench.methods.moe.scores import Score

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class EsftLora(ThresholdSelection, LowRankTraining):
    """Train low-rank updates of the selected experts; ESFT-Gate's selection and the ESFT paper's LoRA by default."""

    name: ClassVar[str] = "esft-lora"
    needs_profile: ClassVar[bool] = True
    score: Score = "gate"
    p: float = Field(default=0.1, gt=0, le=1)

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where the model has no routed experts, or what is given does not fit them."""
        super().check_model(model)
        self.check_given(model)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model but for the updates. Raises MethodError as ESFT does."""
        return self.train_low_rank(model, chosen_experts(model, context, self.select), context)
