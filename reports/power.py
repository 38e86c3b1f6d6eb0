"""Before a run: the minimum detectable effect of its items and training runs, and what that rests on."""

from itertools import combinations
from pathlib import Path

import numpy as np

from esft_bench.reports.backbone_results import ROLES, BackboneResults, Role
from esft_bench.reports.content import gather
from esft_bench.reports.statistics.detectable import Deviations, minimum_detectable_effect
from esft_bench.reports.statistics.variance import variance_components, without_gaps

ASSUMED = Deviations()
"""Taken where no earlier run says how much differences vary; nothing between training runs."""


def deviations_in(run_folder: Path) -> dict[str, Deviations]:
    """Standard deviations of each benchmark in an earlier run, the median over pairs of rows; empty without one."""
    found: dict[str, Deviations] = {}
    for backbone in gather(run_folder).backbones:
        for role in ROLES:
            found |= _of_role(backbone.results, role)
    return found


def detectable_with(items: int, runs: int, rows: int, deviations: Deviations | None = None) -> float:
    """The minimum detectable effect in points at the first step of Holm over all pairs of `rows` rows.

    Equation (8) of `statistics`; without `deviations`, ASSUMED.
    """
    given = deviations or ASSUMED
    used = Deviations(max(given.items, 1.0), given.runs if runs > 1 else 0.0)
    return minimum_detectable_effect(items, runs, used, comparisons=max(rows * (rows - 1) // 2, 1))


def _of_role(results: BackboneResults, role: Role) -> dict[str, Deviations]:
    """Standard deviations of the paired differences on each benchmark of a role."""
    found = {}
    for column in results.columns(role):
        scores = results.item_scores(results.rows, [column], role)
        components = [
            variance_components(kept, False)
            for first, second in combinations(results.rows, 2)
            if (kept := without_gaps([scores[first.name][0] - scores[second.name][0]], False)) is not None
        ]
        if components:
            over_items = [np.sqrt(max(one.item, one.residual) * one.items) for one in components]
            over_runs = [np.sqrt(max(one.run - one.residual, 0.0) * one.runs) for one in components if one.runs > 1]
            between = float(np.median(over_runs)) if over_runs else 0.0
            found[column.name] = Deviations(float(np.median(over_items)), between)
    return found
