"""DAS-Tune: attention and routers first, then the experts that the domain then uses more than general data do.

Source: the expert-concentration paper. Only its abstract is public; where that leaves a choice, the class says which
one this is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field

from esft_bench.methods.attention_router import first_stage_tensors
from esft_bench.methods.errors import MethodError
from esft_bench.methods.expert_training import ExpertTraining
from esft_bench.methods.method import Context, FirstStage
from esft_bench.methods.moe.scores import Score, ScoreRule, Scores, domain_advantage, expert_scores
from esft_bench.methods.moe.selection import Selection, highest

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.profile import Profile


class DomainAdvantage(BaseModel):
    """Two stages: attention and routers, then in each layer the experts with the highest domain advantage score.

    The score is an expert's on the domain minus that on general data, both with the model that stage 1 made. Stage 2
    trains those experts alone: attention and routers keep what stage 1 made of them. Both stages together take the
    cell's steps, so that the row trains as long as every other.

    Attributes:
        count: experts trained in a layer (the paper varies it in Figure 3; 6 is what its Figure 1 looks at, C-DAS@6).
        first_share: stage 1's share of the steps (the paper's Table 6 varies it from 0.1 to 0.5 of 1000 steps; 0.3 is
            the middle of that).
        first_learning_rate: stage 1's learning rate; None for the row's.
        score: what is measured of an expert, see `methods.moe.scores`.
        score_rule: how scores are averaged, see `methods.moe.scores.ScoreRule`.
        advantage: False for the domain's own score alone, the other ways of identifying experts in Table 5.
    """

    needs_profile: ClassVar[bool] = True
    needs_general: ClassVar[bool] = True
    count: int = Field(default=6, ge=1)
    first_share: float = Field(default=0.3, gt=0, lt=1)
    first_learning_rate: float | None = Field(default=None, gt=0)
    score: Score = "gate"
    score_rule: ScoreRule = "paper"
    advantage: bool = True

    @property
    def first_stage(self) -> FirstStage:
        """Attention and routers."""
        return FirstStage("attention-router", self.first_share, self.first_learning_rate)

    def against(self, general: Profile | None) -> Callable[[Profile], Selection]:
        """The choice of experts from a domain's profile, held against that of general data.

        Raises MethodError where there is no general profile.
        """
        if general is None:
            raise MethodError("the domain advantage score needs a profile of general data, and none was given")
        return lambda domain: highest(self.scores(domain, general), self.count)

    def scores(self, domain: Profile, general: Profile) -> Scores:
        """What experts are ranked by."""
        if self.advantage:
            return domain_advantage(domain, general, self.score, self.score_rule)
        return expert_scores(domain, self.score, self.score_rule)


class DasTune(DomainAdvantage, ExpertTraining):
    """Train attention and routers, then the experts that the domain uses more than general data do."""

    name: ClassVar[str] = "das-tune"

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model, which stage 1 has trained, but for the chosen experts. Raises MethodError as ESFT does."""
        return self.train_selected(model, context, self.against(context.general))

    def other_tensors(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """What stage 1 trained."""
        return super().other_tensors(model) | first_stage_tensors(model)
