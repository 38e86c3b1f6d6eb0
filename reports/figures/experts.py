"""Figures about routers and chosen experts: ESFT Figures 2, 3 and 5, DAS Figures 4 and 5.

Every number is in routing.json, worked out by `methods/moe/routing.py`; here it is only drawn.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esft_bench.reports.figures.canvas import Look, Missing, Picture, looks
from esft_bench.reports.figures.heatmap import heatmap
from esft_bench.spec.routing import Concentration, Kind, OverCells, Quantity, Routing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_ROUTING = "the run has no routing.json with profiles of its tasks"
NO_SELECTION = "no row of this run selects experts, or routing.json does not say which"
KINDS: dict[Kind, str] = {"gate": "of the gate weight", "token": "of the token-expert pairs"}


def concentration(routing: Routing | None) -> Picture | Missing:
    """ESFT Figure 2: how much of a layer's weight its highest experts hold, each and together."""
    title = "Concentration of routing (ESFT Figure 2)"
    if routing is None or not routing.concentrations:
        return Missing(title, NO_ROUTING)
    curves = [one for one in routing.concentrations if one.each_mean]
    if not curves:
        return Missing(title, "routing.json is of an earlier version, without the experts' single shares: run again")
    rows = [
        (one.title, one.score, count, *values)
        for one in curves
        for count, values in enumerate(
            zip(one.each_mean, one.each_deviation, one.mean, one.deviation, strict=True), start=1
        )
    ]
    style = looks([one.task for one in curves])

    def paint(axes: Sequence["Axes"]) -> None:
        for k, (kind, what) in enumerate(KINDS.items()):
            of_kind = [one for one in curves if one.score == kind]
            _shares(axes[2 * k], [(one, one.each_mean, one.each_deviation) for one in of_kind], style)
            axes[2 * k].set_title(f"Share {what}, each expert")
            _shares(axes[2 * k + 1], [(one, one.mean, one.deviation) for one in of_kind], style)
            axes[2 * k + 1].set_title(f"Share {what}, experts up to there")
        axes[-1].set_xlabel("Experts of a layer, highest first")

    return Picture(
        "esft-2-concentration",
        title,
        "Share of a layer's gate weight and of its token-expert pairs that each of its experts holds, highest first, "
        "as the paper draws it, and that the highest hold together: mean over layers, band one standard deviation.",
        ("task", "score", "experts", "share_mean", "share_sd", "cumulated_mean", "cumulated_sd"),
        rows,
        paint,
        height=12.0,
        panels=4,
    )


Curve = tuple[Concentration, Sequence[float], Sequence[float]]
"""A task's concentration, and which of its means and deviations to draw."""


def _shares(panel: "Axes", curves: Sequence[Curve], style: Mapping[str, Look]) -> None:
    """A curve with its band for each task."""
    for one, means, deviations in curves:
        look, mean, deviation = style[one.task], np.array(means), np.array(deviations)
        count = np.arange(1, mean.size + 1)
        panel.fill_between(count, mean - deviation, mean + deviation, color=look.colour, alpha=0.15, linewidth=0)
        panel.plot(count, mean, **_line(look, max(1, count.size // 8)), label=one.title)
    panel.set_ylim(bottom=0)


def overlap(routing: Routing | None) -> Picture | Missing:
    """ESFT Figure 3: experts that two samples share among a layer's top k, mean over layers."""
    title = "Overlap of the top experts (ESFT Figure 3)"
    if routing is None or not routing.profiles:
        return Missing(title, NO_ROUTING)
    shared = {(one.first, one.second, one.score): one.shared for one in routing.overlaps}
    tasks = list(dict.fromkeys(first for first, _, _ in shared))
    if not tasks:
        return Missing(title, "no task was profiled on two independent samples")
    titles = [routing.titles()[task] for task in tasks]
    rows = [
        (routing.titles()[first], routing.titles()[second], *(shared[first, second, kind] for kind in KINDS))
        for first in tasks
        for second in tasks
    ]

    def paint(axes: Sequence["Axes"]) -> None:
        values = np.array([[shared[first, second, "gate"] for second in tasks] for first in tasks])
        heatmap(axes[0], values, titles, titles, high=routing.top_k, digits=1)
        axes[0].set_xlabel("second sample")
        axes[0].set_ylabel("first sample")

    return Picture(
        "esft-3-overlap",
        title,
        f"Experts that are among a layer's top {routing.top_k} by gate weight in both samples, mean over layers. The "
        "samples share no sequence: the diagonal says how far the same task agrees with itself.",
        ("first_sample", "second_sample", "shared_by_gate", "shared_by_token"),
        rows,
        paint,
        height=1.6 + 0.45 * len(tasks),
    )


def selected(routing: Routing | None, ablations: frozenset[str]) -> list[Picture | Missing]:
    """ESFT Figure 5: experts trained in each layer for each task, one figure for each row that selects experts."""
    title = "Experts trained, by layer and task (ESFT Figure 5)"
    chosen = [one for one in _of("experts", routing, ablations) if one.task]
    if not chosen or routing is None:
        return [Missing(title, NO_SELECTION)]
    methods = list(dict.fromkeys(one.method for one in chosen))
    return [
        _selected(
            routing,
            [one for one in chosen if one.method == method],
            "esft-5-experts" if len(methods) == 1 else f"esft-5-experts-{index}",
            title,
        )
        for index, method in enumerate(methods, start=1)
    ]


def _selected(routing: Routing, chosen: Sequence[OverCells], name: str, title: str) -> Picture:
    """One row's figure: layers by tasks, profiled tasks first."""
    titles = routing.titles()
    by_task = {one.task: one for one in chosen}
    ordered = [by_task[task] for task in dict.fromkeys([*titles, *by_task]) if task in by_task]
    named = [titles.get(one.task, one.task) for one in ordered]
    counts = np.array([one.mean for one in ordered]).T
    rows = [
        (chosen[0].method, layer, task, float(counts[i, j]))
        for i, layer in enumerate(routing.layers)
        for j, task in enumerate(named)
    ]

    def paint(axes: Sequence["Axes"]) -> None:
        whole = bool((counts == counts.round()).all())
        heatmap(axes[0], counts, [str(layer) for layer in routing.layers], named, digits=0 if whole else 1)
        axes[0].set_ylabel("layer")

    total = ", ".join(f"{task} {sum(one.mean):.0f}" for task, one in zip(named, ordered, strict=True))
    method = chosen[0].method_title
    return Picture(
        name,
        f"{title}: {method}",
        f"Of {routing.num_experts} routed experts in each layer, those that {method} trains (mean over "
        f"seeds where these differ). In all layers: {total}.",
        ("method", "layer", "task", "experts"),
        rows,
        paint,
        height=1.4 + 0.3 * len(routing.layers),
    )


def by_layer(routing: Routing | None, ablations: frozenset[str]) -> Picture | Missing:
    """DAS Figure 4: experts trained in each layer, a line for each row that selects experts."""
    title = "Experts trained, by layer (DAS Figure 4)"
    chosen = [one for one in _of("experts", routing, ablations) if not one.task]
    if not chosen or routing is None:
        return Missing(title, NO_SELECTION)
    caption = (
        f"Experts trained of {routing.num_experts} routed ones in each layer: mean over a row's cells, band from the "
        "lowest to the highest."
    )
    return _over_layers(routing.layers, chosen, "das-4-experts-by-layer", (title, caption), "Experts trained")


def shift(routing: Routing | None, over_steps: Picture | None = None) -> list[Picture | Missing]:
    """DAS Figure 5: how far training moved the routing of a cell's own task, and the same by a measure of ours.

    Where the figure was measured `over_steps` as in the paper, that comes first and what is by layer is ours.
    """
    name, title = ("das-5-routing-consistency", "Routing consistency (DAS Figure 5)")
    if over_steps:
        name, title = ("routing-consistency-by-layer", "Routing consistency by layer")
    return [
        *([over_steps] if over_steps else []),
        _moved(
            routing,
            "consistency",
            (name, title, "RC"),
            "Squared change of an expert's average routing score by training, on the cell's own task, mean over a "
            "layer's experts (Equation 5 is the mean over layers of that)",
        ),
        _moved(
            routing,
            "shift",
            ("routing-shift", "Routing shift", "Total variation"),
            "Total variation between the distributions of token-expert pairs before and after training (0 as before, 1 "
            "nothing in common), on the cell's own task",
        ),
    ]


def _moved(routing: Routing | None, quantity: Quantity, names: tuple[str, str, str], what: str) -> Picture | Missing:
    """A measure over layers; `names` are the file's, the title and the axis."""
    name, title, axis = names
    moved = _of(quantity, routing)
    if not moved or routing is None:
        return Missing(title, "the run did not measure routing after training")
    caption = f"{what}: mean over a row's cells, band from the lowest to the highest."
    return _over_layers(routing.layers, moved, name, (title, caption), axis)


def _over_layers(
    layers: Sequence[int], lines: Sequence[OverCells], name: str, words: tuple[str, str], label: str
) -> Picture:
    """A line for each row over layers; `words` are title and caption."""
    style = looks([one.method for one in lines])
    rows = [
        (one.method, one.method_title, *point)
        for one in lines
        for point in zip(layers, one.mean, one.low, one.high, strict=True)
    ]

    def paint(axes: Sequence["Axes"]) -> None:
        from matplotlib.ticker import MaxNLocator

        for one in lines:
            look = style[one.method]
            axes[0].fill_between(layers, one.low, one.high, color=look.colour, alpha=0.13, linewidth=0)
            axes[0].plot(layers, one.mean, **_line(look, 1), label=one.method_title)
        axes[0].set_xlabel("layer")
        axes[0].set_ylabel(label)
        axes[0].set_ylim(bottom=0)
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))

    height = 3.4 + 0.22 * ((len(lines) + 1) // 2)
    return Picture(name, *words, ("method", "title", "layer", "mean", "min", "max"), rows, paint, height)


def _of(quantity: Quantity, routing: Routing | None, without: frozenset[str] = frozenset()) -> list[OverCells]:
    """What is stored of a quantity, without some rows."""
    stored = routing.over_cells if routing else []
    return [one for one in stored if one.quantity == quantity and one.method not in without]


def _line(look: Look, every: int) -> dict[str, Any]:
    return {"color": look.colour, "linestyle": look.dash, "marker": look.marker, "markevery": every}
