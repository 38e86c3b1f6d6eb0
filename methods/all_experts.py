"""Training every routed expert and nothing else: what selection is measured against at its upper end."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn
from transformers import PreTrainedModel

from esft_bench.methods.expert_training import ExpertTraining
from esft_bench.methods.method import Context
from esft_bench.methods.moe.view import moe_layers


class AllExperts(ExpertTraining):
    """Train all routed experts; all else is frozen. The experts-only row of the expert-concentration paper (Table 4).

    The banks are copies, as in every selection, so the model's experts are in memory twice.
    """

    needs_profile: ClassVar[bool] = False

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model but for its routed experts. Raises MethodError for a model without any."""
        every = {index: list(range(layer.num_experts)) for index, layer in moe_layers(model).items()}
        return self.train_experts(model, every)
