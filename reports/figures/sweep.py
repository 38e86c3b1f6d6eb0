"""Figures over a hyperparameter: ESFT Figures 6 and 7, DAS Figure 3, and any other one that a suite varies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from esft_bench.reports.backbone_report import BackboneReport
from esft_bench.reports.backbone_results import ROLES, Role, TableRow
from esft_bench.reports.figures.canvas import INK, Look, Missing, Picture, looks, plain_log
from esft_bench.reports.statistics.resampling import Interval
from esft_bench.reports.sweeps import Sweep, sweeps
from esft_bench.reports.tables.costs import costs_of
from esft_bench.spec.routing import Routing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLDS = ("p", "rank")
TITLES: dict[Role, str] = {"ability": "Task ability", "general": "General ability"}
KNOWN = {
    "group_size": ("esft-7-group-size", "Size of expert groups (ESFT Figure 7)"),
    "share": ("das-3-experts", "Number of experts (DAS Figure 3)"),
}
COLUMNS = ("method", "row", "hyperparameter", "value", "trainable_parameters_millions", "role", "mean", "low", "high")
INTERVAL = "with 95% intervals of each mean by itself; the paired tests of the tables tell more apart than these do"


def swept(report: BackboneReport, known: Routing | None) -> list[Picture | Missing]:
    """A figure for each hyperparameter that the suite varies, and a word on the papers' ones that it does not."""
    trained = _experts_by_row(known)
    found = [sweep for sweep in sweeps(report.results) if sweep.numeric]
    usable = [sweep for sweep in found if sum(report.average(row, "ability") is not None for _, row in sweep.rows) > 1]
    figures: list[Picture | Missing] = []
    thresholds = [sweep for sweep in usable if sweep.name in THRESHOLDS]
    title = "Thresholds and ranks (ESFT Figure 6)"
    figures.append(_by_parameters(report, thresholds, title) if thresholds else Missing(title, _why(found, THRESHOLDS)))
    others = dict.fromkeys([*KNOWN, *(sweep.name for sweep in usable if sweep.name not in THRESHOLDS)])
    for name in others:
        same = [sweep for sweep in usable if sweep.name == name]
        label, title = KNOWN.get(name, (f"sweep-{name.replace('_', '-')}", f"Sweep of {name.replace('_', ' ')}"))
        figures.append(_by_value(report, same, label, title, trained) if same else Missing(title, _why(found, (name,))))
    return figures


def _why(found: Sequence[Sweep], names: Sequence[str]) -> str:
    named = " or ".join(names)
    if any(sweep.name in names for sweep in found):
        return f"fewer than two of the rows that vary {named} have an average yet"
    return f"no two rows of the suite differ in {named} alone"


@dataclass(frozen=True)
class Axis:
    """The horizontal axis: its label, the place on it of a value of a row, and whether it is logarithmic."""

    label: str
    place: Callable[[float, str], float | None]
    log: bool


def _by_parameters(report: BackboneReport, chosen: Sequence[Sweep], title: str) -> Picture:
    """Task ability and general ability over what is trained, so that thresholds and ranks share an axis."""
    sizes = {row.name: size for sweep in chosen for _, row in sweep.rows if (size := _size(report, row)) is not None}
    axis = Axis("Trainable parameters, M (log)", lambda value, row: sizes.get(row), log=True)
    return _picture(report, chosen, "esft-6-sweep", title, axis)


def _experts_by_row(known: Routing | None) -> dict[str, float]:
    """Experts that a row trains in a layer, mean over its cells and layers, as ESFT Figure 7 draws."""
    stored = known.over_cells if known else []
    return {one.method: float(np.mean(one.mean)) for one in stored if one.quantity == "experts" and not one.task}


def _by_value(
    report: BackboneReport, chosen: Sequence[Sweep], name: str, title: str, trained: Mapping[str, float]
) -> Picture:
    """Task ability and general ability over the hyperparameter's own values, and experts where rows choose them."""
    values = [float(value) for sweep in chosen for value, _ in sweep.rows]
    log = min(values) > 0 and max(values) / min(values) >= 8
    label = chosen[0].name.replace("_", " ") + (" (log)" if log else "")
    return _picture(report, chosen, name, title, Axis(label, lambda value, row: value, log), trained)


def _picture(
    report: BackboneReport,
    chosen: Sequence[Sweep],
    name: str,
    title: str,
    axis: Axis,
    trained: Mapping[str, float] = MappingProxyType({}),
) -> Picture:
    """Task ability above general ability, experts trained below; a line for each sweep, the base model dotted."""
    asked = [role for role in ROLES if report.results.columns(role)]
    series = {_series(sweep, chosen, report): sweep for sweep in chosen}
    lines = {(text, role): _line(report, sweep, role, axis) for text, sweep in series.items() for role in asked}
    roles = [role for role in asked if any(lines[text, role] for text in series)]
    rows: list[tuple[object, ...]] = [
        (text, row.name, series[text].name, value, _size_or_blank(report, row), role, one.estimate, one.low, one.high)
        for (text, role), line in lines.items()
        for _, value, row, one in line
    ]
    counts = {text: _counts(sweep, axis, trained) for text, sweep in series.items()}
    rows += [
        (text, row.name, series[text].name, value, _size_or_blank(report, row), "experts", count, count, count)
        for text, line in counts.items()
        for _, value, row, count in line
    ]
    style = looks(list(series))
    panels = len(roles) + any(counts.values())

    def paint(axes: Sequence["Axes"]) -> None:
        for panel, role in zip(axes, roles, strict=False):
            for k, (text, sweep) in enumerate(series.items()):
                _curve(panel, lines[text, role], style[text], text)
                if sweep.name in THRESHOLDS:
                    _label(panel, lines[text, role], sweep.name, below=k % 2 == 0)
            _frame(panel, report, role, axis, {place for place, *_ in lines[next(iter(series)), role]})
        if any(counts.values()):
            _count_panel(axes[-1], counts, style, axis)
        for panel in axes[1:]:
            panel.set_xlim(axes[0].get_xlim())
        axes[-1].set_xlabel(axis.label)

    caption = f"Averages of the tables, {INTERVAL}."
    caption += "".join(f" {TITLES[role]} has no averages yet." for role in asked if role not in roles)
    if any(counts.values()):
        caption += " Experts trained in a layer: mean over layers and cells."
    return Picture(name, title, caption, COLUMNS, rows, paint, 2.6 * panels + 0.5, panels)


def _counts(sweep: Sweep, axis: Axis, trained: Mapping[str, float]) -> "list[tuple[float, float, TableRow, float]]":
    """(place on the axis, value, row, experts trained) of the rows that choose experts."""
    return [
        (place, float(value), row, trained[row.name])
        for value, row in sweep.rows
        if row.name in trained and (place := axis.place(float(value), row.name)) is not None
    ]


def _count_panel(
    panel: "Axes",
    counts: "Mapping[str, list[tuple[float, float, TableRow, float]]]",
    style: Mapping[str, Look],
    axis: Axis,
) -> None:
    """Experts trained in a layer, a line for each sweep that has them."""
    for text, line in counts.items():
        if line:
            look = style[text]
            x, y = [place for place, *_ in line], [count for *_, count in line]
            panel.plot(x, y, color=look.colour, marker=look.marker, linestyle=look.dash, label=text)
    panel.set_title("Experts trained in a layer")
    panel.margins(x=0.2)
    panel.set_ylim(bottom=0)
    _ticks(panel, axis, {place for line in counts.values() for place, *_ in line})


def _frame(panel: "Axes", report: BackboneReport, role: Role, axis: Axis, ticks: set[float]) -> None:
    """What stands around the curves: the base model, title, margins and ticks."""
    base = report.average(report.base, role) if report.base else None
    if base and report.base and role == "general":
        panel.axhline(base.estimate, color=INK, linestyle=":", linewidth=1, label=report.base.title)
    panel.set_title(f"{TITLES[role]}, average")
    panel.margins(x=0.2, y=0.2)
    _ticks(panel, axis, ticks)


def _ticks(panel: "Axes", axis: Axis, places: set[float]) -> None:
    """The points themselves, where they are few."""
    if axis.log:
        plain_log(panel)
    elif len(places) <= 6:
        panel.set_xticks(sorted(places), [f"{place:.3g}" for place in sorted(places)])


def _curve(panel: "Axes", line: "Line", look: Look, label: str) -> None:
    """Averages with their intervals."""
    x, y = [place for place, *_ in line], [point.estimate for *_, point in line]
    error = [[point.estimate - point.low for *_, point in line], [point.high - point.estimate for *_, point in line]]
    panel.errorbar(x, y, error, color=look.colour, marker=look.marker, linestyle=look.dash, capsize=3, label=label)


def _label(panel: "Axes", line: "Line", name: str, *, below: bool) -> None:
    """The hyperparameter's values at each point; series take turns below and above."""
    points: dict[tuple[float, float], list[str]] = {}
    for place, value, _, point in line:
        points.setdefault((place, point.estimate), []).append(f"{value:g}")
    for at, values in points.items():
        shift = (4, -12) if below else (4, 6)
        panel.annotate(f"{name} {', '.join(values)}", at, shift, textcoords="offset points", fontsize=9)


def _series(sweep: Sweep, chosen: Sequence[Sweep], report: BackboneReport) -> str:
    """The method's title, with its first row where a method has several sweeps."""
    titles = {row.name: row.title for row in report.results.rows}
    title = titles.get(sweep.method, sweep.method)
    alike = [one for one in chosen if one.method == sweep.method and one.name == sweep.name]
    return title if len(alike) == 1 else f"{title} ({sweep.rows[0][1].title} …)"


Line = list[tuple[float, float, TableRow, Interval]]
"""(place on the axis, value, row, average)."""


def _line(report: BackboneReport, sweep: Sweep, role: Role, axis: Axis) -> Line:
    """The rows of a sweep that have both a place and an average."""
    return [
        (place, float(value), row, point)
        for value, row in sweep.rows
        if (place := axis.place(float(value), row.name)) is not None
        and (point := report.average(row, role)) is not None
    ]


def _size(report: BackboneReport, row: TableRow) -> float | None:
    """Trainable parameters in millions, mean over the row's cells."""
    found = costs_of(report.results, row, "trainable_parameters")
    return float(np.mean(found)) if found else None


def _size_or_blank(report: BackboneReport, row: TableRow) -> float | str:
    size = _size(report, row)
    return "" if size is None else size
