"""ESFT that begins with few experts and takes more while that helps.

A suggestion of a reader of the ESFT paper (arXiv 2407.01906): "start with the top 10% of experts, gradually add more if
needed". How, is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.esft import EsftGate
from esft_bench.methods.expert_training import ExpertTraining, chosen_experts
from esft_bench.methods.method import Context
from esft_bench.methods.moe.scores import Score
from esft_bench.methods.moe.selection import Selection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from esft_bench.methods.changes import Changes
    from esft_bench.methods.moe.profile import Profile


class EsftGradual(ExpertTraining):
    """Train the experts that reach a part of ESFT's threshold, and every so many steps those of the next part too.

    At stage k of n the experts of a layer are those whose cumulated score reaches p·k/n, so none leaves, and the last
    stage trains ESFT's. No further stage begins once the loss on held-out rows (the suite's `evaluate_every`, on
    held-out rows) is not below that of the look before; without such looks every stage comes.

    Attributes:
        score: what is measured of an expert, see `methods.moe.scores`.
        p: threshold on the cumulated score, in (0, 1]. Where a layer's scores add up to more than 1, as with
            sigmoid routers, it is a share of their sum.
        every: steps of a stage.
        stages: how many stages there are; at the last one `p` is reached.
    """

    name: ClassVar[str] = "esft-gradual"
    held_whole: ClassVar[str] = "it changes which experts are trained"
    score: Score = "gate"
    p: float = Field(default=0.1, gt=0, le=1)
    every: int = Field(default=50, ge=1)
    stages: int = Field(default=4, ge=1)

    def at_stage(self, stage: int) -> EsftGate:
        """The ESFT whose experts a stage, from 1, trains."""
        options = self.model_dump(include={"shared_experts", "non_expert_modules", "score"})
        return EsftGate(p=self.p * stage / self.stages, **options)

    @property
    def at_most(self) -> EsftGate:
        """The last stage's."""
        return self.at_stage(self.stages)

    def select(self, profile: Profile) -> Selection:
        """The first stage's experts."""
        return self.at_stage(1).select(profile)

    def remarks(self, context: Context) -> Sequence[str]:
        """What ESFT says of its scores."""
        return self.at_most.remarks(context)

    def changes(self, model: PreTrainedModel, context: Context) -> Changes | None:
        """The stages that follow the first."""
        from esft_bench.methods.moe.stages import Stages

        later = [chosen_experts(model, context, self.at_stage(stage).select) for stage in range(2, self.stages + 1)]
        return Stages(model, later, self.every)
