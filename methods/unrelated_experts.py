"""Training the experts that a task uses least: the harder ablation of expert selection.

Source: the expert-concentration paper compares domain, random and unrelated experts (Figure 1).
"""

from methods.ablation import SelectionAblation
from methods.moe.profile import Profile
from methods.moe.selection import Selection, lowest


class UnrelatedExperts(SelectionAblation):
    """Train the experts with the lowest scores, with the counts, score and options of the selection in `of`.

    Where that selection takes more than half of a layer, some of its experts are among the lowest too.
    """

    def select(self, profile: Profile, seed: int) -> Selection:
        """Take the experts with the lowest scores; nothing is drawn, so every seed gives the same ones."""
        counts = {layer: len(chosen) for layer, chosen in self.of.select(profile).items()}
        return lowest(self.of.ranking(profile), counts)
