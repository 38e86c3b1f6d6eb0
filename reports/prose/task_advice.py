"""What one task's advice is, and which rows are cheapest: the same whether scores decide or curves at equal gain."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from esft_bench.reports.backbone_results import AVERAGE, BackboneResults, Column, TableRow
from esft_bench.reports.formatting import ONE_TRAINING, Sentence, listing, points, quantity
from esft_bench.reports.statistics.paired import PairedDifference

COSTS = {
    "train_seconds": ("trains fastest", "train fastest"),
    "peak_memory_bytes": ("needs the least memory", "need the least memory"),
    "stored_bytes": ("stores the least", "store the least"),
}
UNITS = {
    "train_seconds": "{} of training",
    "peak_memory_bytes": "{} of memory",
    "stored_bytes": "{} of storage",
}
UNDECIDED = "Not decided"
NEARLY = 1.05
"""Costs within 5% of the lowest count as the lowest: a second run of the same cell differs by as much."""


@dataclass(frozen=True)
class TaskAdvice:
    """What the numbers say about one task, or about the average over all.

    Attributes:
        task: the column's name, empty for the average; `title`: its header.
        candidates: rows that are best or not distinguishable from the best, highest first; no base, no ablations.
        cheapest: for each cost, the candidates within 5% of the lowest.
        forgotten: candidates' general ability minus the base model's; `sure`: whose difference is significant.
        pick: the row to take, where the numbers leave one; None where they do not.
        at_equal_gain: whether curves decided, read at equal gain; candidates are then the rows that forget least there.
        sentences: all of it in words, which row to take first.
    """

    task: str
    title: str
    candidates: tuple[TableRow, ...] = ()
    cheapest: Mapping[str, tuple[TableRow, ...]] = field(default_factory=dict)
    forgotten: Mapping[str, PairedDifference] = field(default_factory=dict)
    sure: frozenset[str] = frozenset()
    pick: TableRow | None = None
    sentences: tuple[Sentence, ...] = ()
    at_equal_gain: bool = False


def costs_by_row(results: BackboneResults, rows: Sequence[TableRow], column: Column, metric: str) -> dict[str, float]:
    """Mean cost of a row's cells of the task (of all cells for the average); rows without any are left out."""
    found: dict[str, list[float]] = {}
    for record in results.records:
        asked = record.metric == metric and (column is AVERAGE or record.task in column.tasks)
        if asked and record.role == "cost" and record.value is not None:
            found.setdefault(record.method, []).append(record.value)
    return {row.name: float(np.mean(found[row.name])) for row in rows if row.name in found}


def lowest(rows: Sequence[TableRow], costs: Mapping[str, float]) -> tuple[TableRow, ...]:
    """The rows whose cost is the lowest, or within 5% of it."""
    least = min(costs.values())
    return tuple(row for row in rows if costs[row.name] <= NEARLY * least)


def cheap(
    rows: Sequence[TableRow], cheapest: Mapping[str, tuple[TableRow, ...]], costs: Mapping[str, Mapping[str, float]]
) -> list[Sentence]:
    """Who is cheapest among several candidates."""
    if len(rows) == 1:
        return []
    if not cheapest:
        return [Sentence("What they cost was not measured for all of them.")]
    won: dict[tuple[TableRow, ...], list[str]] = {}
    for metric, winners in cheapest.items():
        lowest = quantity(metric, min(costs[metric].values()))
        won.setdefault(winners, []).append(f"{COSTS[metric][len(winners) > 1]} ({lowest})")
    parts = []
    for winners, what in won.items():
        names = listing([row.title for row in winners])
        parts.append(f"{names} {listing(what)}" if len(winners) == 1 else f"{names}, alike within 5%, {listing(what)}")
    return [Sentence(f"Of these, {'; '.join(parts)}.")]


def near_the_best(behind: Mapping[TableRow, float], margin: float) -> tuple[TableRow, ...]:
    """The rows measured at most `margin` points behind the best of them; `behind` is higher where a row is worse.

    With few runs hardly anything is told apart, and then a row far behind is no choice for being cheap.
    """
    least = min(behind.values())
    return tuple(row for row, points in behind.items() if points - least <= margin)


def cheapest_near_the_best(rows: Sequence[TableRow], near: Sequence[TableRow], margin: float, how: str) -> str:
    """Why the cheapest of the rows `near` the best is taken, of all that cannot be told apart."""
    if len(near) == len(rows):
        return f", and it is the cheapest of them, {how}."
    if len(near) == 1:
        return f", but all others measured more than {points(margin)} worse."
    return (
        f"; of {listing([row.title for row in near])}, within {points(margin)} of the best, it is the cheapest, {how}."
    )


def cheapest_of_all(rows: Sequence[TableRow], costs: Mapping[str, Mapping[str, float]]) -> TableRow | None:
    """The row with the lowest geometric mean of time, memory and storage; None where not all of these are known."""
    if not all(row.name in found for found in costs.values() for row in rows):
        return None
    return min(rows, key=lambda row: math.prod(found[row.name] for found in costs.values()))


def how_cheap(pick: TableRow, rows: Sequence[TableRow], costs: Mapping[str, Mapping[str, float]]) -> str:
    """In what the cheapest row is that: in each cost, or in all of them together."""
    in_each = all(pick in lowest(rows, found) for found in costs.values())
    return "in time, memory and storage" if in_each else "time, memory and storage counting alike"


def take(pick: TableRow, why: str, costs: Mapping[str, Mapping[str, float]], forgets: str) -> Sentence:
    """Which row to take, why, what it costs and what it forgets."""
    known = [
        UNITS[metric].format(quantity(metric, found[pick.name]))
        for metric, found in costs.items()
        if pick.name in found
    ]
    return Sentence(" ".join([why, *([f"It costs {listing(known)}."] if known else []), forgets]), f"Take {pick.title}")


def if_typical(verdict: Sentence) -> Sentence:
    """The verdict where each row was trained once."""
    return Sentence(f"{verdict.text} But {ONE_TRAINING}.", f"{verdict.lead}, if its one training is typical")
