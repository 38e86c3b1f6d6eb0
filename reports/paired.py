"""One row against another, on the same items and, where there are several, in the same training runs."""

from collections.abc import Sequence
from dataclasses import replace

from esft_bench.reports.resampling import Interval
from esft_bench.reports.scores import Column, Role, Row, Scores
from esft_bench.reports.statistics import Comparison, compare


def against(scores: Scores, row: Row, other: Row, role: Role, task: str = "") -> Comparison | None:
    """A row minus another, averaged over the columns of a role; None where they share no item in some column.

    With `task`, general ability after training on that task only.
    """
    key = (row.name, other.name, role, task)
    if key not in scores.compared:
        blocks = scores.blocks([row, other], scores.columns(role), role, task)
        differences = [a - b for a, b in zip(blocks[row.name], blocks[other.name], strict=True)]
        scores.compared[key] = compare(differences, shared_runs=role == "general")
    return scores.compared[key]


def own(scores: Scores, row: Row, role: Role, columns: Sequence[Column] | None = None) -> Interval | None:
    """A row's own average over some columns (all unless given), with its interval over items, and runs if several."""
    blocks = scores.blocks([row], scores.columns(role) if columns is None else columns, role)
    found = compare(blocks[row.name], shared_runs=role == "general")
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 100.0)) if found else None
