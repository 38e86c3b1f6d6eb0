"""Which rows of a column are best, or can't be told from the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from esft_bench.reports.statistics.detectable import detectable_effect
from esft_bench.reports.statistics.paired import ALPHA, holm, p_value_of
from esft_bench.reports.statistics.resampling import sign_flip
from esft_bench.reports.statistics.variance import (
    Array,
    VarianceComponents,
    is_binary,
    is_constant,
    mean_difference,
    over_runs,
    pooled,
    variance_components,
    weighted,
    without_gaps,
)


@dataclass(frozen=True)
class Ranking:
    """The outcome of comparing all rows of a column: see `rank`."""

    best: str
    indistinguishable: frozenset[str]
    second: str | None
    detectable_effect: float
    p_values: Mapping[tuple[str, str], float]


def rank(scores: Mapping[str, Sequence[Array]], *, alpha: float = ALPHA, shared_runs: bool = False) -> Ranking | None:
    """Return the best row of a column and the rows that can't be told from it.

    `scores` maps a row to its scores [runs, items] on each benchmark, aligned between rows. Every pair of rows is
    tested and the p-values are Holm-corrected over all pairs, because which row comes out best is itself chosen by
    looking: the chance that any row as good as the best loses its bold is at most `alpha`. Rows without a score on some
    benchmark are left out; None without any row. `second` is the highest of the rows that are told from the best,
    `detectable_effect` that of the median pair at the first step of Holm (NaN with a single row).
    """
    rows = {name: kept for name, arrays in scores.items() if (kept := without_gaps(arrays, shared_runs)) is not None}
    if not rows:
        return None
    means = {name: mean_difference(kept) for name, kept in rows.items()}
    ranked = sorted(rows, key=lambda name: (-means[name], name))
    pairs = [(first, second) for i, first in enumerate(ranked) for second in ranked[i + 1 :]]
    differences = [[a - b for a, b in zip(scores[x], scores[y], strict=True)] for x, y in pairs]
    known = {k: kept for k, arrays in enumerate(differences) if (kept := without_gaps(arrays, shared_runs)) is not None}
    components = dict(
        zip(known, pooled([variance_components(kept, shared_runs) for kept in known.values()], len(rows)), strict=True)
    )
    adjusted = dict(zip(pairs, holm(_p_values(differences, known, components)), strict=True))
    same = frozenset(name for name in ranked[1:] if adjusted[ranked[0], name] > alpha)
    effects = [detectable_effect(one.precision(), len(pairs), alpha) for one in components.values()]
    second = next((name for name in ranked[1:] if name not in same), None)
    return Ranking(ranked[0], same, second, float(np.median(effects)) if effects else float("nan"), adjusted)


def _p_values(
    differences: Sequence[Sequence[Array]],
    known: Mapping[int, Sequence[Array]],
    components: Mapping[int, VarianceComponents],
) -> list[float]:
    """The p-value of each pair, 1 where it has no item in common; graded scores share their random signs."""
    values = [1.0] * len(differences)
    graded = []
    for k, kept in known.items():
        if components[k].runs > 1 or is_binary(kept) or is_constant(kept):
            values[k] = p_value_of(kept, components[k])
        else:
            graded.append(k)
    if graded:
        columns = [weighted([over_runs(array) for array in differences[k]]) for k in graded]
        for k, p in zip(graded, sign_flip(np.stack(columns, axis=1)), strict=True):
            values[k] = float(p)
    return values
