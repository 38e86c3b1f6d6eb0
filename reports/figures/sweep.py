"""Figures over a hyperparameter: ESFT Figures 6 and 7, DAS Figure 3, and any other one that a suite varies."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reports.figures.canvas import INK, Missing, Picture, looks
from reports.figures.costs import values_of
from reports.scores import Role
from reports.sheet import Point, Sheet
from reports.sweeps import Sweep, sweeps
from reports.words import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLDS = ("p", "rank")
KNOWN = {
    "group_size": ("esft-7-group-size", "Size of expert groups (ESFT Figure 7)"),
    "count": ("das-3-count", "Number of experts (DAS Figure 3)"),
}
COLUMNS = ("method", "row", "hyperparameter", "value", "trainable_parameters_millions", "role", "mean", "low", "high")
INTERVAL = "with 95% intervals of each mean by itself; the paired tests of the tables tell more apart than these do"


def swept(sheet: Sheet) -> list[Picture | Missing]:
    """A figure for each hyperparameter that the suite varies, and a word on the papers' ones that it does not."""
    found = [sweep for sweep in sweeps(sheet.scores) if sweep.numeric]
    usable = [sweep for sweep in found if sum(sheet.point(row, "ability") is not None for _, row in sweep.rows) > 1]
    figures: list[Picture | Missing] = []
    thresholds = [sweep for sweep in usable if sweep.name in THRESHOLDS]
    title = "Thresholds and ranks (ESFT Figure 6)"
    figures.append(_by_parameters(sheet, thresholds, title) if thresholds else Missing(title, _why(found, THRESHOLDS)))
    others = dict.fromkeys([*KNOWN, *(sweep.name for sweep in usable if sweep.name not in THRESHOLDS)])
    for name in others:
        same = [sweep for sweep in usable if sweep.name == name]
        label, title = KNOWN.get(name, (f"sweep-{name.replace('_', '-')}", f"Sweep of {name.replace('_', ' ')}"))
        figures.append(_by_value(sheet, same, label, title) if same else Missing(title, _why(found, (name,))))
    return figures


def _why(found: Sequence[Sweep], names: Sequence[str]) -> str:
    named = " or ".join(names)
    if any(sweep.name in names for sweep in found):
        return f"fewer than two of the rows that vary {named} have an average yet"
    return f"no two rows of the suite differ in {named} alone"


def _by_parameters(sheet: Sheet, chosen: Sequence[Sweep], title: str) -> Picture:
    """Task ability and general ability over what is trained, so that thresholds and ranks share an axis."""
    sizes = {
        row.name: float(np.mean(values))
        for sweep in chosen
        for _, row in sweep.rows
        if (values := values_of(sheet.scores, row.name, "trainable_parameters"))
    }

    def position(value: float, row: str) -> float | None:
        return sizes.get(row)

    return _picture(sheet, chosen, "esft-6-sweep", title, "Trainable parameters, M (log)", position, log=True)


def _by_value(sheet: Sheet, chosen: Sequence[Sweep], name: str, title: str) -> Picture:
    values = [float(value) for sweep in chosen for value, _ in sweep.rows]
    log = min(values) > 0 and max(values) / min(values) >= 8
    label = chosen[0].name.replace("_", " ") + (" (log)" if log else "")
    return _picture(sheet, chosen, name, title, label, lambda value, row: value, log=log)


def _picture(
    sheet: Sheet,
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
    roles = [role for role in every if sheet.scores.columns(role)]
    series = {_series(sweep, chosen, sheet): sweep for sweep in chosen}
    lines = {(text, role): _line(sheet, sweep, role, position) for text, sweep in series.items() for role in roles}
    rows = [
        (text, row, series[text].name, value, *_size(sheet, row), role, point.value, point.low, point.high)
        for (text, role), line in lines.items()
        for _, value, row, point in line
    ]
    style = looks(list(series))

    def paint(axes: Sequence["Axes"]) -> None:
        for panel, role in zip(axes, roles, strict=True):
            for text, sweep in series.items():
                line = lines[text, role]
                x, y = [place for place, *_ in line], [point.value for *_, point in line]
                error = [[p.value - p.low for *_, p in line], [p.high - p.value for *_, p in line]]
                look = style[text]
                panel.errorbar(
                    x, y, error, color=look.colour, marker=look.marker, linestyle=look.dash, capsize=3, label=text
                )
                for place, value, _, point in line:
                    panel.annotate(
                        f"{sweep.name} {value:g}" if sweep.name in THRESHOLDS else "",
                        (place, point.value),
                        (5, -11),
                        textcoords="offset points",
                        fontsize=9,
                    )
            base = sheet.point(sheet.base, role) if sheet.base else None
            if base and sheet.base and role == "general":
                panel.axhline(base.value, color=INK, linestyle=":", linewidth=1, label=sheet.base.title)
            panel.set_title("Task ability, average" if role == "ability" else "General ability, average")
            panel.margins(x=0.12, y=0.15)
            if log:
                panel.set_xscale("log")
            ticks = sorted({place for (_, of), line in lines.items() if of == role for place, *_ in line})
            if len(ticks) <= 6:
                panel.set_xticks(ticks, [amount(tick) if name == "esft-6-sweep" else f"{tick:g}" for tick in ticks])
                panel.minorticks_off()
        axes[-1].set_xlabel(label)

    return Picture(
        name, title, f"Averages of the tables, {INTERVAL}.", COLUMNS, rows, paint, 2.6 * len(roles) + 0.5, len(roles)
    )


def _series(sweep: Sweep, chosen: Sequence[Sweep], sheet: Sheet) -> str:
    """The method's name, with its first row where a method has several sweeps."""
    alike = [one for one in chosen if one.method == sweep.method and one.name == sweep.name]
    return sweep.method if len(alike) == 1 else f"{sweep.method} ({sweep.rows[0][1].title} …)"


def _line(
    sheet: Sheet, sweep: Sweep, role: Role, position: Callable[[float, str], float | None]
) -> list[tuple[float, float, str, Point]]:
    """(place on the axis, value, row, average) of every row that has both."""
    return [
        (place, float(value), row.name, point)
        for value, row in sweep.rows
        if (place := position(float(value), row.name)) is not None and (point := sheet.point(row, role)) is not None
    ]


def _size(sheet: Sheet, row: str) -> tuple[float | str]:
    found = values_of(sheet.scores, row, "trainable_parameters")
    return (float(np.mean(found)) if found else "",)
