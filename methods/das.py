"""DAS-Tune: attention and routers first, then the experts that the domain then uses more than general data do.

Source: the expert-concentration paper, Sections 2.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.attention_router import attention_and_routers, first_stage_tensors
from esft_bench.methods.errors import MethodError
from esft_bench.methods.expert_training import ExpertTraining
from esft_bench.methods.method import Context, FirstStage, Method
from esft_bench.methods.moe.scores import Score, ScoreRule, Scores, domain_advantage, expert_scores
from esft_bench.methods.moe.selection import Selection, highest, highest_of_all

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.profile import Profile


PAPERS_SHARE = 156 / 1664
"""Of all routed experts of DeepSeek-V2-Lite, 26 layers of 64, those that the paper's main row trains."""


class AdvantageSelection(Method):
    """Of all routed experts of the model together, those with the highest domain advantage score.

    The score is an expert's average routing score on the domain minus that on general data (the suite's `alignment`).

    Attributes:
        count: experts trained, in the whole model or, with `per_layer`, in each layer; none for `share`.
        share: the same as a share of the experts. The paper trains 156 of 1664 (9.375%, about 8% of the parameters)
            and varies that from 78 to 234 in Figure 3.
        per_layer: rank the experts of each layer by themselves.
        score: what is measured of an expert, see `methods.moe.scores`: `router` is Equation 1's routing score,
            `token` the introduction's selection frequency.
        score_rule: how gate and token scores are averaged, see `methods.moe.scores.ScoreRule`.
        advantage: False for the domain's own score alone, the other ways of identifying experts in Table 5.
    """

    needs_profile: ClassVar[bool] = True
    count: int | None = Field(default=None, ge=1)
    share: float = Field(default=PAPERS_SHARE, gt=0, le=1)
    per_layer: bool = False
    score: Score = "router"
    score_rule: ScoreRule = "pooled"
    advantage: bool = True

    @property
    def needs_general(self) -> bool:  # type: ignore[override]
        """A domain is held against general data."""
        return self.advantage

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where the model has fewer experts than are to be trained."""
        from esft_bench.methods.moe.view import moe_layers

        super().check_model(model)
        experts = [layer.num_experts for layer in moe_layers(model).values()]
        most = min(experts) if self.per_layer else sum(experts)
        if (self.count or 0) > most:
            raise MethodError(f"count is {self.count}, but there are {most} experts {self._where}; lower it")

    def choice(self, context: Context) -> Callable[[Profile], Selection]:
        """The choice of experts from a domain's profile, held against that of general data."""
        return lambda domain: self.take(self.ranking(domain, context))

    def ranking(self, profile: Profile, context: Context) -> Scores:
        """What experts are ranked by. Raises MethodError where there is no general profile."""
        if not self.advantage:
            return expert_scores(profile, self.score, self.score_rule)
        if context.general is None:
            raise MethodError("the domain advantage score needs a profile of general data, and none was given")
        return domain_advantage(profile, context.general, self.score, self.score_rule)

    @property
    def _where(self) -> str:
        return "in a layer" if self.per_layer else "in all layers together"

    def take(self, scores: Scores) -> Selection:
        """The highest ones."""
        return (highest if self.per_layer else highest_of_all)(scores, self.number(scores))

    def number(self, scores: Scores) -> int:
        """How many experts are taken, of each layer or of all."""
        layers, experts = scores.values.shape
        return self.count or max(1, round(self.share * experts * (1 if self.per_layer else layers)))


class DomainAdvantage(AdvantageSelection):
    """Two stages: attention and routers, then the experts with the highest domain advantage score.

    The score is measured with the model that stage 1 made. Stage 2 trains those experts alone: attention and routers
    keep what stage 1 made of them. Both stages together take the cell's steps, so that the row trains as long as every
    other.

    Attributes:
        first_share: stage 1's share of the steps: 500 of 1000 in the paper's main row, which is the last line of its
            Table 6.
        first_learning_rate: stage 1's learning rate; none for the row's.
    """

    first_share: float = Field(default=0.5, gt=0, lt=1)
    first_learning_rate: float | None = Field(default=None, gt=0)

    @property
    def first_stage(self) -> FirstStage:
        """Attention and routers."""
        return FirstStage("attention-router", self.first_share, self.first_learning_rate)


class DasTune(DomainAdvantage, ExpertTraining):
    """Train attention and routers, then the experts that the domain uses more than general data do."""

    name: ClassVar[str] = "das-tune"

    def also_written(self, model: PreTrainedModel) -> Sequence[str]:
        """What stage 1 trained."""
        return list(attention_and_routers(model))

    def other_tensors(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """What stage 1 trained."""
        return super().other_tensors(model) | first_stage_tensors(model)
