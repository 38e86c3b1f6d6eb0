"""Training every routed expert and nothing else: what selection is measured against at its upper end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.expert_training import ExpertTraining
from esft_bench.methods.method import Context

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class AllExperts(ExpertTraining):
    """Train all routed experts; all else is frozen. The experts-only row of the expert-concentration paper (Table 4).

    The banks are copies, as in every selection, so the model's experts are in memory twice.
    """

    name: ClassVar[str] = "all-experts"
    needs_profile: ClassVar[bool] = False

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model but for its routed experts. Raises MethodError for a model without any."""
        from esft_bench.methods.moe.view import moe_layers

        every = {index: list(range(layer.num_experts)) for index, layer in moe_layers(model).items()}
        return self.train_experts(model, every)
