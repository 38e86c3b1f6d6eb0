"""Curves over optimizer steps, a line for each row: the mean over its cells, with the lowest and the highest."""

from collections.abc import Mapping, Sequence

import numpy as np

from esft_bench.spec.curves import Point

Series = dict[str, list[tuple[int, float, float, float]]]
"""(step, mean, lowest, highest) by row."""


def series(points: Sequence[Point], *, smooth: bool) -> Series:
    """Each row's curve: mean over its cells with the lowest and highest; a loss in twentieths of training."""
    cells: dict[str, dict[tuple[str, int], dict[int, float]]] = {}
    for point in points:
        cells.setdefault(point.method, {}).setdefault((point.task, point.seed), {})[point.step] = point.value
    return {method: _over_cells([_binned(c) if smooth else c for c in own.values()]) for method, own in cells.items()}


def _binned(curve: Mapping[int, float]) -> dict[int, float]:
    """Means over a twentieth of the steps each, at its last step."""
    last = max(curve)
    size = max(1, last // 20)
    bins: dict[int, list[float]] = {}
    for step, value in curve.items():
        bins.setdefault(min(-(-step // size) * size, last), []).append(value)
    return {step: float(np.mean(values)) for step, values in sorted(bins.items())}


def _over_cells(curves: Sequence[Mapping[int, float]]) -> list[tuple[int, float, float, float]]:
    """Mean, lowest and highest at each step that every cell has: a cell that stopped early moves no mean."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    stacked = [[curve[step] for curve in curves] for step in steps]
    return [(step, float(np.mean(v)), min(v), max(v)) for step, v in zip(steps, stacked, strict=True)]
