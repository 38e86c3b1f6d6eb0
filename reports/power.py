"""Before a run: the minimum detectable effect of its items and training runs, and what that rests on."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from esft_bench.reports.backbone_results import ROLES, BackboneResults, Role
from esft_bench.reports.content import gather
from esft_bench.reports.prose.hour import Spent, spent_by
from esft_bench.reports.statistics.detectable import Deviations, detectable_effect, deviations_of
from esft_bench.reports.statistics.family import level_of
from esft_bench.reports.statistics.variance import variance_components, without_gaps

ASSUMED = Deviations(items=25.0, runs=3.0, residual=43.3)
"""Taken where no earlier run says how much differences vary: all-or-nothing scores of which a quarter differ (50
points), a quarter of that variance the same in every run; 3 points between training runs."""
SPREAD = float(np.hypot(ASSUMED.items, ASSUMED.residual))
ASSUMPTION = (
    f"Assumed where no run before says it: a difference varies by {SPREAD:.0f} points over items (all or nothing, a "
    f"quarter differ), a quarter of that variance the same in every run, and by {ASSUMED.runs:.0f} between trainings."
)
MOST_SEEDS, MOST_ITEMS = 100, 10**6
"""Where the search for what a difference needs ends."""

SHARE = 1 / 3
"""Of the comparisons, those that are taken to turn out significant: the fewer do, the smaller each p-value must be."""


def deviations_in(run_folder: Path) -> dict[str, Deviations]:
    """Standard deviations of each benchmark in an earlier run, the median over pairs of rows; empty without one."""
    found: dict[str, Deviations] = {}
    for backbone in gather(run_folder).backbones:
        for role in ROLES:
            found |= _of_role(backbone.results, role)
    return found


@dataclass(frozen=True)
class Design:
    """What is compared: pairs of so many `rows`, on the average of so many `benchmarks`, given what is known of them.

    Variances between runs are taken to be alike in all rows: a report that finds them so reads them together.
    """

    rows: int
    deviations: Deviations = ASSUMED
    benchmarks: int = 1

    def detectable(self, items: int, runs: int) -> float:
        """The minimum detectable effect in points with so many items and runs a benchmark; equation (8)."""
        share = self.benchmarks**0.5
        known = replace(self.deviations, items=max(self.deviations.items, 1.0))
        averaged = Deviations(*(value / share for value in astuple(known)))
        freedom = max((runs - 1) * (self.rows - 1) * self.benchmarks, 1)
        pairs = max(self.rows * (self.rows - 1) // 2, 1)
        level = level_of(pairs, max(round(SHARE * pairs), 1))
        return detectable_effect(averaged.components(items, runs, freedom), level)

    def seeds_needed(self, points: float, items: int, runs_a_seed: int = 1) -> int | None:
        """The fewest seeds with which a difference of so many points is found; None where items stand in the way.

        `runs_a_seed` are the training runs that each seed adds: one for each task in general ability.
        """
        if self.detectable(items, MOST_SEEDS * runs_a_seed) > points:
            return None
        counts = range(2, MOST_SEEDS + 1)
        return next((n for n in counts if self.detectable(items, n * runs_a_seed) <= points), None)

    def items_needed(self, points: float, runs: int) -> int | None:
        """The fewest items, to about 1%, with which such a difference is found; None where runs stand in the way."""
        low, high = 1, MOST_ITEMS
        if self.detectable(high, runs) > points:
            return None
        while high - low > max(high // 100, 1):
            middle = int((low * high) ** 0.5) if high > 4 * low else (low + high) // 2
            low, high = (low, middle) if self.detectable(middle, runs) <= points else (middle, high)
        return high


def averaged_over(known: Sequence[Deviations]) -> Deviations:
    """The deviations of several benchmarks as one: root mean squares."""
    return Deviations(*(float(np.sqrt(np.mean(np.square(each)))) for each in zip(*map(astuple, known), strict=True)))


def spent_in(run_folder: Path) -> Spent | None:
    """What the cells of an earlier run took; None without one."""
    return spent_by(gather(run_folder).records)


def _of_role(results: BackboneResults, role: Role) -> dict[str, Deviations]:
    """Standard deviations of the paired differences on each benchmark of a role."""
    found = {}
    for column in results.columns(role):
        scores = results.item_scores(results.rows, [column], role)
        seen = [
            deviations_of(variance_components(kept, False))
            for first, second in combinations(results.rows, 2)
            if (kept := without_gaps([scores[first.name][0] - scores[second.name][0]], False)) is not None
        ]
        if seen:
            found[column.name] = Deviations(*(float(np.median(each)) for each in zip(*map(astuple, seen), strict=True)))
    return found
