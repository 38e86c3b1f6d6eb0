"""Which rows of a column are best, or can't be told from the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from esft_bench.reports.blocks import (
    Array,
    Spread,
    clean,
    estimate_of,
    is_binary,
    is_constant,
    over_runs,
    pooled,
    spread_of,
    weighted,
)
from esft_bench.reports.resampling import sign_flip
from esft_bench.reports.statistics import holm, p_value_of, resolvable


@dataclass(frozen=True)
class Best:
    """The outcome of comparing all rows of a column: see `best_or_indistinguishable`."""

    best: str
    indistinguishable: frozenset[str]
    second: str | None
    resolvable: float
    p_values: Mapping[tuple[str, str], float]


def best_or_indistinguishable(
    scores: Mapping[str, Sequence[Array]], *, alpha: float = 0.05, shared_runs: bool = False, scale: float = 100.0
) -> Best | None:
    """Return the best row of a column and the rows that can't be told from it.

    `scores` maps a row to its blocks [runs, items], aligned between rows. Every pair of rows is tested and the
    p-values are Holm-corrected over all pairs, because which row comes out best is itself chosen by looking: the
    chance that any row as good as the best loses its bold is at most `alpha`. Rows with an empty block are left out;
    None without any row. `second` is the highest of the rows that are told from the best, `resolvable` the smallest
    resolvable difference of the median pair at the first step of Holm (NaN with a single row).
    """
    rows = {name: kept for name, blocks in scores.items() if (kept := clean(blocks, shared_runs)) is not None}
    if not rows:
        return None
    means = {name: estimate_of(kept) for name, kept in rows.items()}
    ranked = sorted(rows, key=lambda name: (-means[name], name))
    pairs = [(first, second) for i, first in enumerate(ranked) for second in ranked[i + 1 :]]
    differences = [[a - b for a, b in zip(scores[x], scores[y], strict=True)] for x, y in pairs]
    known = {k: kept for k, blocks in enumerate(differences) if (kept := clean(blocks, shared_runs)) is not None}
    spreads = dict(
        zip(known, pooled([spread_of(kept, shared_runs) for kept in known.values()], len(rows)), strict=True)
    )
    adjusted = dict(zip(pairs, holm(_p_values(differences, known, spreads, scale)), strict=True))
    same = frozenset(name for name in ranked[1:] if adjusted[ranked[0], name] > alpha)
    deltas = [
        resolvable(*spread.error(), spread.items, spread.runs, len(pairs), alpha, scale=scale)
        for spread in spreads.values()
    ]
    second = next((name for name in ranked[1:] if name not in same), None)
    return Best(ranked[0], same, second, float(np.median(deltas)) if deltas else float("nan"), adjusted)


def _p_values(
    differences: Sequence[Sequence[Array]],
    known: Mapping[int, Sequence[Array]],
    spreads: Mapping[int, Spread],
    scale: float,
) -> list[float]:
    """The p-value of each pair, 1 where it has no item in common; graded scores share their random signs."""
    values = [1.0] * len(differences)
    graded = []
    for k, kept in known.items():
        if spreads[k].runs > 1 or is_binary(kept, scale) or is_constant(kept):
            values[k] = p_value_of(kept, spreads[k], scale)
        else:
            graded.append(k)
    if graded:
        columns = [weighted([over_runs(block) for block in differences[k]]) for k in graded]
        for k, p in zip(graded, sign_flip(np.stack(columns, axis=1)), strict=True):
            values[k] = float(p)
    return values
