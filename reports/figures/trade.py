"""What a method gains against what it makes the model forget and the memory it needs: neither paper has this figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esft_bench.reports.backbone_report import BackboneReport
from esft_bench.reports.backbone_results import ROLES, TableRow
from esft_bench.reports.figures.canvas import INK, Missing, Picture, looks
from esft_bench.reports.formatting import amount
from esft_bench.reports.statistics.paired import PairedDifference
from esft_bench.reports.tables.costs import costs_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "method",
    "title",
    "gain",
    "gain_low",
    "gain_high",
    "forgetting",
    "forgetting_low",
    "forgetting_high",
    "peak_memory_mb",
    "beaten_by",
)


@dataclass(frozen=True)
class Trade:
    """A row against the base model: task ability won, general ability changed, memory needed."""

    row: TableRow
    gain: PairedDifference
    change: PairedDifference
    memory: float | None
    beaten_by: str = ""


def pareto(report: BackboneReport) -> Picture | Missing:
    """Task gain over general ability lost, the area of a marker growing with the memory of training."""
    title = "Gain, forgetting and memory"
    if not report.results.columns("general"):
        return Missing(title, "the suite has no general benchmarks")
    if report.base is None:
        return Missing(title, "the base model was not evaluated")
    trades = _trades(report)
    if not trades:
        return Missing(title, "no trained row has both averages yet")
    style = looks([row.name for row in report.results.rows])
    known = [trade.memory for trade in trades if trade.memory]
    rows = [_line(trade) for trade in trades]

    def paint(axes: Sequence["Axes"]) -> None:
        panel = axes[0]
        for trade in trades:
            look, x, y = style[trade.row.name], -trade.change.estimate, trade.gain.estimate
            panel.plot([-trade.change.high, -trade.change.low], [y, y], color=look.colour, linewidth=1.2)
            panel.plot([x, x], [trade.gain.low, trade.gain.high], color=look.colour, linewidth=1.2)
            memory = f", {amount(trade.memory)} MB" if trade.memory else ""
            panel.scatter(
                [x],
                [y],
                s=40 + 160 * ((trade.memory or 0) / max(known)) if known else 80,
                marker=look.marker,
                facecolor="white" if trade.beaten_by else look.colour,
                edgecolor=look.colour if trade.beaten_by else INK,
                linewidth=1.5,
                zorder=3,
            )
            face = "white" if trade.beaten_by else look.colour
            panel.plot([], [], look.marker, color=look.colour, markerfacecolor=face, label=f"{trade.row.title}{memory}")
        panel.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        panel.set_xlabel("General ability lost, points (left is better)")
        panel.set_ylabel("Task ability gained, points")

    return Picture(
        "gain-forgetting-memory",
        title,
        "Averages against the base model, paired over items, with 95% intervals; the larger a marker, the more memory "
        "training takes. Hollow: another row gains and keeps at least as much with no more memory, and one of these "
        "differences is significant.",
        COLUMNS,
        rows,
        paint,
        height=3.6 + 0.22 * len(trades),
        legend_columns=1,
    )


def _trades(report: BackboneReport) -> list[Trade]:
    """Every trained row that has both averages, with who beats it."""
    found = []
    for row in report.results.rows:
        if report.base is None or row == report.base:
            continue
        won, change = report.gain(row, "ability"), report.gain(row, "general")
        memory = costs_of(report.results, row, "peak_memory_bytes")
        if won and change:
            found.append(Trade(row, won, change, float(np.mean(memory)) if memory else None))
    return [Trade(one.row, one.gain, one.change, one.memory, _beaten_by(report, one, found)) for one in found]


def _beaten_by(report: BackboneReport, one: Trade, others: Sequence[Trade]) -> str:
    """The first row at least as good on all three counts and, on task or general ability, better beyond chance."""
    for other in others:
        as_good = (
            other is not one
            and other.gain.estimate >= one.gain.estimate
            and other.change.estimate >= one.change.estimate
            and other.memory is not None
            and one.memory is not None
            and other.memory <= one.memory
        )
        if as_good and any(report.comparisons.differ(other.row, one.row, role) for role in ROLES):
            return other.row.title
    return ""


def _line(trade: Trade) -> tuple[object, ...]:
    gain, change = trade.gain, trade.change
    memory: float | str = trade.memory if trade.memory is not None else ""
    return (
        trade.row.name,
        trade.row.title,
        *(gain.estimate, gain.low, gain.high),
        *(-change.estimate, -change.high, -change.low),
        memory,
        trade.beaten_by,
    )
