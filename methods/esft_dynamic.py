"""ESFT that chooses its experts again while it trains.

A suggestion of a reader of the ESFT paper (arXiv 2407.01906): "what if relevant experts change during training?" How,
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from esft_bench.methods.esft import EsftGate
from esft_bench.methods.expert_training import ExpertTraining
from esft_bench.methods.method import Context
from esft_bench.methods.moe.selection import Selection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from esft_bench.methods.changes import Changes
    from esft_bench.methods.moe.profile import Profile

CHURN = 0.25
"""What an estimate adds to `p` for experts that come and go: an assumption."""


class EsftDynamic(ExpertTraining):
    """Train ESFT's experts, chosen again every so many steps from a running profile of the training batches.

    The running profile R is, of each expert, its scores of ESFT (share of the tokens, mean gate weight), begun with the
    profile of the task's data and moved by each step's batch, whose own scores are B:

        R ← decay · R + (1 − decay) · B

    An expert that stays keeps its optimizer state; what one that leaves has learned stays in the model, and so in the
    adapter. Alignment data are a part of the batches, and so of what experts are chosen by.

    Attributes:
        score: what is measured of an expert: `gate` or `token`, see `methods.moe.scores`.
        p: threshold on the cumulated score, in (0, 1]. Where a layer's scores add up to more than 1, as with
            sigmoid routers, it is a share of their sum.
        every: steps from one choice to the next; with as many as the training has, or more, this is ESFT.
        decay: how much of the running profile a step keeps, in [0, 1).
    """

    name: ClassVar[str] = "esft-dynamic"
    held_whole: ClassVar[str] = "it changes which experts are trained"
    score: Literal["gate", "token"] = "gate"
    p: float = Field(default=0.1, gt=0, le=1)
    every: int = Field(default=50, ge=1)
    decay: float = Field(default=0.9, ge=0, lt=1)

    def esft(self, p: float) -> EsftGate:
        """The ESFT with the same scores and options, and another threshold."""
        options = self.model_dump(include={"shared_experts", "non_expert_modules", "score"})
        return EsftGate(p=p, **options)

    @property
    def at_most(self) -> EsftGate:
        """With the assumed share of experts that come and go."""
        return self.esft(min(1.0, self.p * (1 + CHURN)))

    def select(self, profile: Profile) -> Selection:
        """ESFT's experts of a profile."""
        return self.esft(self.p).select(profile)

    def remarks(self, context: Context) -> Sequence[str]:
        """What ESFT says of its scores."""
        return self.esft(self.p).remarks(context)

    def changes(self, model: PreTrainedModel, context: Context) -> Changes | None:
        """The choices that follow the first."""
        from esft_bench.methods.moe.running import Reselection

        assert context.profile is not None  # else nothing would have been prepared
        return Reselection(model, [context.profile, *context.further], self.select, self.every, self.decay)
