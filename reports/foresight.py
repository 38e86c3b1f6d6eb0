"""Before a run: the smallest difference that its items and training runs can resolve, and what that rests on."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from esft_bench.reports.blocks import clean, spread_of
from esft_bench.reports.content import gather
from esft_bench.reports.scores import Role, Scores
from esft_bench.reports.statistics import smallest_resolvable_difference

ASSUMED = 50.0
"""Points. Standard deviation of the paired differences of all-or-nothing scores where a quarter of the items differ."""


@dataclass(frozen=True)
class Seen:
    """How much paired differences vary, in points: over items, and over training runs (0 where only one was seen)."""

    items: float
    runs: float


def seen_in(run_folder: Path) -> dict[str, Seen]:
    """The spread of each benchmark in an earlier run, the median over its pairs of rows; empty without one."""
    found: dict[str, Seen] = {}
    for part in gather(run_folder).parts:
        found |= _seen(part.scores, "ability") | _seen(part.scores, "general")
    return found


def _seen(scores: Scores, role: Role) -> dict[str, Seen]:
    found = {}
    for column in scores.columns(role):
        blocks = scores.blocks(scores.rows, [column], role)
        spreads = [
            spread_of(kept, False)
            for first, second in combinations(scores.rows, 2)
            if (kept := clean([blocks[first.name][0] - blocks[second.name][0]], False)) is not None
        ]
        if spreads:
            over_items = [np.sqrt(max(one.item, one.residual) * one.items) for one in spreads]
            over_runs = [np.sqrt(max(one.run - one.residual, 0.0) * one.runs) for one in spreads if one.runs > 1]
            found[column.name] = Seen(float(np.median(over_items)), float(np.median(over_runs)) if over_runs else 0.0)
    return found


def resolvable_by(items: int, runs: int, rows: int, seen: Seen | None = None) -> float:
    """The smallest difference in points, equation (8) of `statistics`, at the first step of Holm over all pairs.

    Without `seen`, ASSUMED over items and no variance between training runs.
    """
    spread = seen or Seen(ASSUMED, 0.0)
    return smallest_resolvable_difference(
        items,
        runs,
        sd_items=max(spread.items, 1.0),
        sd_runs=spread.runs if runs > 1 else 0.0,
        comparisons=max(rows * (rows - 1) // 2, 1),
    )
