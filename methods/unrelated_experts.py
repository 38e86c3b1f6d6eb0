"""Training the experts that a task uses least: the harder ablation of expert selection.

Source: the expert-concentration paper compares domain, random and unrelated experts (Figure 1b). Its unrelated experts
are the lowest of all layers together, which is `das-experts` with `lowest`; here each layer keeps its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.ablation import SelectionAblation
from esft_bench.methods.method import Context
from esft_bench.methods.moe.selection import Selection, lowest

if TYPE_CHECKING:
    from esft_bench.methods.moe.profile import Profile


class UnrelatedExperts(SelectionAblation):
    """Train the experts with the lowest scores, with the counts, score and options of the selection in `of`.

    Where that selection takes more than half of a layer, some of its experts are among the lowest too.
    """

    name: ClassVar[str] = "unrelated-experts"

    def instead(self, selected: Selection, profiles: Sequence[Profile], context: Context) -> Selection:
        """Take the experts with the lowest scores, summed over the tasks; nothing is drawn, so all seeds agree."""
        scores = [self.of.ranking(profile, context) for profile in profiles]
        summed = replace(scores[0], values=sum((other.values for other in scores[1:]), scores[0].values))
        return lowest(summed, {layer: len(chosen) for layer, chosen in selected.items()})
