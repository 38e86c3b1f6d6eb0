"""Figure 4 of the ESFT paper: what training costs, in time, memory and storage."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esft_bench.reports.backbone_results import BackboneResults, TableRow
from esft_bench.reports.figures.canvas import FAINT, INK, Look, Missing, Picture, looks
from esft_bench.reports.formatting import amount
from esft_bench.reports.tables.costs import costs_of
from esft_bench.reports.tables.paper import published_costs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {
    "train_seconds": "Minutes",
    "peak_memory_bytes": "Peak memory, MB",
    "stored_bytes": "Stored, MB",
}
PAPERS: dict[str, Any] = {"marker": "D", "color": "white", "markeredgecolor": INK, "linestyle": "none", "zorder": 5}
"""How a paper's value is drawn."""
Told = Mapping[tuple[str, str], tuple[float, float]]
"""What a paper says, lowest and highest, by row and column header."""


def costs(results: BackboneResults, backbone: str = "") -> Picture | Missing:
    """Bars for each trained row: mean over its cells, with the lowest and highest cell, and the paper's own values."""
    title = "Time, memory and storage (ESFT Figure 4)"
    paper = results.suite.paper
    told = published_costs(paper, results.rows, backbone) if paper else {}
    values = {
        (row.name, metric): costs_of(results, row, metric)
        for row in results.rows
        for metric in PANELS
        if not results.is_base(row)
    }
    rows = [row for row in results.rows if any(values.get((row.name, metric)) for metric in PANELS)]
    if not rows:
        return Missing(title, "no cell has been trained yet")
    data = [_datum(row, metric, values[row.name, metric], told) for row in rows for metric in PANELS]
    style = looks([row.name for row in results.rows])

    def paint(axes: Sequence["Axes"]) -> None:
        for panel, (metric, label) in zip(axes, PANELS.items(), strict=True):
            for place, row in enumerate(rows):
                if found := values[row.name, metric]:
                    _bar(panel, place, found, style[row.name])
                if range_told := told.get((row.name, label)):
                    panel.plot(range_told, [place, place], color=INK, linewidth=2.5)
                    panel.plot(range_told, [place, place], **PAPERS)
            panel.set_title(label)
            panel.set_yticks(range(len(rows)), [row.title for row in rows])
            panel.invert_yaxis()
            panel.margins(x=0.18)
            panel.set_xlim(left=0)
            panel.grid(axis="y", visible=False)
            panel.grid(axis="x", color=FAINT)

    return Picture(
        "esft-4-costs",
        title,
        "Training a cell: mean over the cells of a row; the line goes from the cheapest to the dearest cell. "
        "1 MB = 10⁶ bytes." + (" Diamonds: as published, on other machines; two where a range is." if told else ""),
        ("method", "title", "metric", "mean", "min", "max", "cells", "published_min", "published_max"),
        [one for one in data if one],
        paint,
        height=3 * (0.75 + 0.3 * len(rows)),
        panels=3,
    )


def _datum(row: TableRow, metric: str, found: Sequence[float], told: Told) -> tuple[object, ...]:
    """A line of the figure's data; empty where nothing was measured."""
    if not found:
        return ()
    ours = (float(np.mean(found)), min(found), max(found), len(found))
    return (row.name, row.title, metric, *ours, *told.get((row.name, PANELS[metric]), ("", "")))


def _bar(panel: "Axes", place: int, values: Sequence[float], look: Look) -> None:
    """The mean over cells as a bar with its amount, a line from the lowest to the highest."""
    mean, low, high = float(np.mean(values)), min(values), max(values)
    panel.barh(place, mean, color=look.colour, hatch=look.hatch, edgecolor=INK, linewidth=0.8, height=0.7)
    panel.plot([low, high], [place, place], color=INK, linewidth=1.4)
    panel.annotate(amount(mean), (high, place), (5, 0), textcoords="offset points", va="center", fontsize=10)
