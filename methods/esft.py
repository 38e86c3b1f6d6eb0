"""Expert-specialized fine-tuning: train only the experts that a task uses most (arXiv 2407.01906)."""

from pydantic import BaseModel, Field

from methods.expert_training import ExpertTraining
from methods.moe.profile import Profile
from methods.moe.scores import Score, ScoreRule, expert_scores
from methods.moe.selection import Selection, select


class ThresholdSelection(BaseModel):
    """ESFT's selection of experts: in each layer, those with the highest scores until their sum reaches `p`.

    Attributes:
        score: `gate`, the mean gate weight (Equation 6), or `token`, the share of tokens (Equation 7).
        p: threshold on the cumulated score, in (0, 1].
        score_rule: how scores are averaged, see `methods.moe.scores.ScoreRule`.
    """

    score: Score
    p: float = Field(gt=0, le=1)
    score_rule: ScoreRule = "released"

    def select(self, profile: Profile) -> Selection:
        """Choose the experts to train from a profile."""
        return select(expert_scores(profile, self.score, self.score_rule), self.p)


class Esft(ThresholdSelection, ExpertTraining):
    """Train the experts whose cumulated score reaches `p` in each layer; all else is frozen, but for the options."""


class EsftGate(Esft):
    """ESFT-Gate with the paper's threshold."""

    score: Score = "gate"
    p: float = Field(default=0.1, gt=0, le=1)


class EsftToken(Esft):
    """ESFT-Token with the paper's threshold."""

    score: Score = "token"
    p: float = Field(default=0.2, gt=0, le=1)
