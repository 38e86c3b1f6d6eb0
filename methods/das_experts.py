"""Training experts by their domain advantage alone, as the model has it before any training.

Source: the expert-concentration paper: "FFN Tuning Only" of its Table 4, and the domain and unrelated experts of its
Figure 1b.
"""

from __future__ import annotations

from typing import ClassVar

from esft_bench.methods.das import AdvantageSelection
from esft_bench.methods.expert_training import ExpertTraining
from esft_bench.methods.moe.scores import Scores
from esft_bench.methods.moe.selection import Selection, lowest, lowest_of_all


class DasExperts(AdvantageSelection, ExpertTraining):
    """Train the experts with the highest domain advantage before any training, or the lowest; all else is frozen.

    Attributes:
        lowest: take the experts with the lowest domain advantage instead, the paper's unrelated experts.
    """

    name: ClassVar[str] = "das-experts"
    lowest: bool = False

    def take(self, scores: Scores) -> Selection:
        """The highest ones, or the lowest."""
        if not self.lowest:
            return super().take(scores)
        count = self.number(scores)
        return lowest(scores, dict.fromkeys(scores.layers, count)) if self.per_layer else lowest_of_all(scores, count)
