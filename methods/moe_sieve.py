"""LoRA on the experts that a task uses most, a fixed share of each layer; the rest are sieved out by token counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.expert_training import chosen_experts
from esft_bench.methods.low_rank_training import LowRankTraining
from esft_bench.methods.method import Context
from esft_bench.methods.moe.scores import expert_scores
from esft_bench.methods.moe.selection import Selection, highest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.profile import Profile


class MoeSieve(LowRankTraining):
    """Train low-rank updates of the `share` of each layer's experts that most tokens are sent to.

    Attributes:
        share: of a layer's experts, rounded up to a whole number.
    """

    name: ClassVar[str] = "moe-sieve"
    needs_profile: ClassVar[bool] = True
    share: float = Field(default=0.25, gt=0, le=1)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model but for the updates. Raises MethodError for a model without routed experts."""
        return self.train_low_rank(model, chosen_experts(model, context, self.select), context)

    def select(self, profile: Profile) -> Selection:
        """In each layer the experts with the highest token ratios."""
        return highest(expert_scores(profile, "token"), math.ceil(self.share * profile.num_experts))
