"""Training a fixed number of experts in each layer: those with the highest scores.

A plain alternative to a threshold. The expert-concentration paper counts experts in the whole model: see `das`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.expert_training import ExpertTraining
from esft_bench.methods.method import Context
from esft_bench.methods.moe.scores import Score, ScoreRule, Scores, expert_scores
from esft_bench.methods.moe.selection import Selection, check_count, highest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.profile import Profile


class TopKExperts(ExpertTraining):
    """Train the `count` experts with the highest scores in each layer; all else is frozen.

    Attributes:
        count: experts trained in a layer; more than a layer has are refused.
        score: what is measured of an expert, see `methods.moe.scores`.
        score_rule: how scores are averaged, see `methods.moe.scores.ScoreRule`.
    """

    name: ClassVar[str] = "top-k-experts"
    count: int = Field(default=6, ge=1)
    score: Score = "gate"
    score_rule: ScoreRule = "released"

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where a layer has fewer experts than are to be trained."""
        from esft_bench.methods.moe.view import moe_layers

        super().check_model(model)
        for layer in moe_layers(model).values():
            check_count(layer.index, layer.num_experts, self.count)

    def select(self, profile: Profile) -> Selection:
        """Take the experts with the highest scores, those without a token too where no others are left."""
        return highest(expert_scores(profile, self.score, self.score_rule), self.count)

    def ranking(self, profile: Profile, context: Context) -> Scores:
        """The profile's scores."""
        return expert_scores(profile, self.score, self.score_rule)
