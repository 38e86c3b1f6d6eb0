"""Before a run: the minimum detectable effect of its items and training runs, and what that rests on."""

from dataclasses import astuple, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from esft_bench.reports.backbone_results import ROLES, BackboneResults, Role
from esft_bench.reports.content import gather
from esft_bench.reports.statistics.detectable import Deviations, detectable_effect, deviations_of
from esft_bench.reports.statistics.family import level_of
from esft_bench.reports.statistics.variance import variance_components, without_gaps

ASSUMED = Deviations()
"""Taken where no earlier run says how much differences vary; nothing between training runs."""

SHARE = 1 / 3
"""Of the comparisons, those that are taken to turn out significant: the fewer do, the smaller each p-value must be."""


def deviations_in(run_folder: Path) -> dict[str, Deviations]:
    """Standard deviations of each benchmark in an earlier run, the median over pairs of rows; empty without one."""
    found: dict[str, Deviations] = {}
    for backbone in gather(run_folder).backbones:
        for role in ROLES:
            found |= _of_role(backbone.results, role)
    return found


def detectable_with(items: int, runs: int, rows: int, deviations: Deviations | None = None) -> float:
    """The minimum detectable effect in points, for one of the pairs of `rows` rows on one column.

    Equation (8) of `statistics`; without `deviations`, ASSUMED.
    """
    given = deviations or ASSUMED
    used = replace(given, items=max(given.items, 1.0))
    pairs = max(rows * (rows - 1) // 2, 1)
    return detectable_effect(used.components(items, runs), level_of(pairs, max(round(SHARE * pairs), 1)))


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
