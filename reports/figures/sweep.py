"""Figures over a hyperparameter: ESFT Figures 6 and 7, DAS Figure 3, and any other one that a suite varies."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from esft_bench.reports.averages import Point, average
from esft_bench.reports.content import Part
from esft_bench.reports.figures.canvas import INK, Look, Missing, Picture, looks, plain_log
from esft_bench.reports.figures.costs import values_of
from esft_bench.reports.scores import Role
from esft_bench.reports.sweeps import Sweep, sweeps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLDS = ("p", "rank")
KNOWN = {
    "group_size": ("esft-7-group-size", "Size of expert groups (ESFT Figure 7)"),
    "count": ("das-3-count", "Number of experts (DAS Figure 3)"),
}
COLUMNS = ("method", "row", "hyperparameter", "value", "trainable_parameters_millions", "role", "mean", "low", "high")
INTERVAL = "with 95% intervals of each mean by itself; the paired tests of the tables tell more apart than these do"


def swept(part: Part) -> list[Picture | Missing]:
    """A figure for each hyperparameter that the suite varies, and a word on the papers' ones that it does not."""
    found = [sweep for sweep in sweeps(part.scores) if sweep.numeric]
    usable = [sweep for sweep in found if sum(average(part, row, "ability") is not None for _, row in sweep.rows) > 1]
    figures: list[Picture | Missing] = []
    thresholds = [sweep for sweep in usable if sweep.name in THRESHOLDS]
    title = "Thresholds and ranks (ESFT Figure 6)"
    figures.append(_by_parameters(part, thresholds, title) if thresholds else Missing(title, _why(found, THRESHOLDS)))
    others = dict.fromkeys([*KNOWN, *(sweep.name for sweep in usable if sweep.name not in THRESHOLDS)])
    for name in others:
        same = [sweep for sweep in usable if sweep.name == name]
        label, title = KNOWN.get(name, (f"sweep-{name.replace('_', '-')}", f"Sweep of {name.replace('_', ' ')}"))
        figures.append(_by_value(part, same, label, title) if same else Missing(title, _why(found, (name,))))
    return figures


def _why(found: Sequence[Sweep], names: Sequence[str]) -> str:
    named = " or ".join(names)
    if any(sweep.name in names for sweep in found):
        return f"fewer than two of the rows that vary {named} have an average yet"
    return f"no two rows of the suite differ in {named} alone"


def _by_parameters(part: Part, chosen: Sequence[Sweep], title: str) -> Picture:
    """Task ability and general ability over what is trained, so that thresholds and ranks share an axis."""
    sizes = {
        row.name: float(np.mean(values))
        for sweep in chosen
        for _, row in sweep.rows
        if (values := values_of(part.scores, row.name, "trainable_parameters"))
    }

    def position(value: float, row: str) -> float | None:
        return sizes.get(row)

    return _picture(part, chosen, "esft-6-sweep", title, "Trainable parameters, M (log)", position, log=True)


def _by_value(part: Part, chosen: Sequence[Sweep], name: str, title: str) -> Picture:
    values = [float(value) for sweep in chosen for value, _ in sweep.rows]
    log = min(values) > 0 and max(values) / min(values) >= 8
    label = chosen[0].name.replace("_", " ") + (" (log)" if log else "")
    return _picture(part, chosen, name, title, label, lambda value, row: value, log=log)


def _picture(
    part: Part,
    chosen: Sequence[Sweep],
    name: str,
    title: str,
    label: str,
    position: Callable[[float, str], float | None],
    *,
    log: bool,
) -> Picture:
    """Task ability above general ability; a line for each sweep, the base model dotted."""
    every: tuple[Role, ...] = ("ability", "general")
    roles = [role for role in every if part.scores.columns(role)]
    series = {_series(sweep, chosen, part): sweep for sweep in chosen}
    lines = {(text, role): _line(part, sweep, role, position) for text, sweep in series.items() for role in roles}
    rows = [
        (text, row, series[text].name, value, *_size(part, row), role, point.value, point.low, point.high)
        for (text, role), line in lines.items()
        for _, value, row, point in line
    ]
    style = looks(list(series))

    def paint(axes: Sequence["Axes"]) -> None:
        for panel, role in zip(axes, roles, strict=True):
            for k, (text, sweep) in enumerate(series.items()):
                _curve(panel, lines[text, role], style[text], text)
                if sweep.name in THRESHOLDS:
                    _label(panel, lines[text, role], sweep.name, below=k % 2 == 0)
            base = average(part, part.base, role) if part.base else None
            if base and part.base and role == "general":
                panel.axhline(base.value, color=INK, linestyle=":", linewidth=1, label=part.base.title)
            panel.set_title("Task ability, average" if role == "ability" else "General ability, average")
            panel.margins(x=0.2, y=0.2)
            if log:
                plain_log(panel)
            elif len(ticks := {place for place, *_ in lines[next(iter(series)), role]}) <= 6:
                panel.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
        axes[-1].set_xlabel(label)

    return Picture(
        name, title, f"Averages of the tables, {INTERVAL}.", COLUMNS, rows, paint, 2.6 * len(roles) + 0.5, len(roles)
    )


def _curve(panel: "Axes", line: "Line", look: Look, label: str) -> None:
    """Averages with their intervals."""
    x, y = [place for place, *_ in line], [point.value for *_, point in line]
    error = [[point.value - point.low for *_, point in line], [point.high - point.value for *_, point in line]]
    panel.errorbar(x, y, error, color=look.colour, marker=look.marker, linestyle=look.dash, capsize=3, label=label)


def _label(panel: "Axes", line: "Line", name: str, *, below: bool) -> None:
    """The hyperparameter's value at each point; series take turns below and above."""
    for place, value, _, point in line:
        shift = (4, -12) if below else (4, 6)
        text = f"{name} {value:g}"
        panel.annotate(text, (place, point.value), shift, textcoords="offset points", fontsize=9)


def _series(sweep: Sweep, chosen: Sequence[Sweep], part: Part) -> str:
    """The method's title, with its first row where a method has several sweeps."""
    titles = {row.name: row.title for row in part.scores.rows}
    title = titles.get(sweep.method, sweep.method)
    alike = [one for one in chosen if one.method == sweep.method and one.name == sweep.name]
    return title if len(alike) == 1 else f"{title} ({sweep.rows[0][1].title} …)"


Line = list[tuple[float, float, str, Point]]
"""(place on the axis, value, row, average)."""


def _line(part: Part, sweep: Sweep, role: Role, position: Callable[[float, str], float | None]) -> Line:
    """The rows of a sweep that have both a place and an average."""
    return [
        (place, float(value), row.name, point)
        for value, row in sweep.rows
        if (place := position(float(value), row.name)) is not None and (point := average(part, row, role)) is not None
    ]


def _size(part: Part, row: str) -> tuple[float | str]:
    found = values_of(part.scores, row, "trainable_parameters")
    return (float(np.mean(found)) if found else "",)
