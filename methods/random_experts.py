"""The ablation of expert selection in the ESFT paper (Table 3): as many experts in each layer, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.ablation import SelectionAblation
from esft_bench.methods.method import Context
from esft_bench.methods.moe.selection import Selection, draw

if TYPE_CHECKING:
    from esft_bench.methods.moe.profile import Profile


class RandomExperts(SelectionAblation):
    """Train random experts, with the counts and options of the selection that this is the ablation of."""

    name: ClassVar[str] = "random-experts"

    def instead(self, selected: Selection, profiles: Sequence[Profile], context: Context) -> Selection:
        """Draw the experts to train, with the cell's seed."""
        return draw(selected, profiles[0].num_experts, context.seed)
