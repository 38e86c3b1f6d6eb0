"""Figures about routers and chosen experts: ESFT Figures 2, 3 and 5, DAS Figures 4 and 5. All from routing.json."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from esft_bench.reports.figures.canvas import Look, Missing, Picture, looks
from esft_bench.spec.routing import Routing, Selection, TaskProfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_ROUTING = "the run has no routing.json with profiles of its tasks"
Array = NDArray[np.float64]


def concentration(routing: Routing | None) -> Picture | Missing:
    """ESFT Figure 2: how much of a layer's weight its highest experts hold, and how far layers differ."""
    title = "Concentration of routing (ESFT Figure 2)"
    profiles = [profile for profile in routing.profiles if profile.sample == 0] if routing else []
    if not profiles or routing is None:
        return Missing(title, NO_ROUTING)
    kinds = {"gate": "of the gate weight", "token": "of the token-expert pairs"}
    curves = {(p.task, kind): cumulated(getattr(p, kind)) for p in profiles for kind in kinds}
    rows = [
        (profile.title, kind, count + 1, float(mean[count]), float(spread[count]))
        for profile in profiles
        for kind in kinds
        for mean, spread in [_mean_and_spread(curves[profile.task, kind])]
        for count in range(mean.size)
    ]
    style = looks([profile.task for profile in profiles])

    def paint(axes: Sequence["Axes"]) -> None:
        count = np.arange(1, routing.num_experts + 1)
        for panel, (kind, what) in zip(axes, kinds.items(), strict=True):
            for profile in profiles:
                mean, spread = _mean_and_spread(curves[profile.task, kind])
                look = style[profile.task]
                panel.fill_between(count, mean - spread, mean + spread, color=look.colour, alpha=0.15, linewidth=0)
                panel.plot(count, mean, **_line(look, max(1, count.size // 8)), label=profile.title)
            panel.plot(
                count, count / count.size, color="#1a1a1a", linewidth=1, linestyle=":", label="all experts alike"
            )
            panel.set_title(f"Share {what}")
            panel.set_ylim(0, 1)
        axes[-1].set_xlabel("Experts of a layer, highest first")

    return Picture(
        "esft-2-concentration",
        title,
        "Cumulated share of a layer's gate weight and of its token-expert pairs held by its highest experts: mean over "
        "layers, band one standard deviation over layers. The steeper at the left, the fewer experts a task needs.",
        ("task", "score", "experts", "share_mean_over_layers", "share_sd_over_layers"),
        rows,
        paint,
        height=6.2,
        panels=2,
    )


def overlap(routing: Routing | None) -> Picture | Missing:
    """ESFT Figure 3: experts that two samples share among a layer's top k, mean over layers."""
    title = "Overlap of the top experts (ESFT Figure 3)"
    if routing is None or not routing.profiles:
        return Missing(title, NO_ROUTING)
    first = {profile.task: profile for profile in routing.profiles if profile.sample == 0}
    second = {profile.task: profile for profile in routing.profiles if profile.sample == 1}
    tasks = [task for task in first if task in second]
    if not tasks:
        return Missing(title, "no task was profiled on two independent samples")
    shared = {
        kind: np.array([[shared_top(first[a], second[b], kind, routing.top_k) for b in tasks] for a in tasks])
        for kind in ("gate", "token")
    }
    titles = [first[task].title for task in tasks]
    rows = [
        (titles[i], titles[j], *(float(shared[kind][i, j]) for kind in ("gate", "token")))
        for i in range(len(tasks))
        for j in range(len(tasks))
    ]

    def paint(axes: Sequence["Axes"]) -> None:
        heatmap(axes[0], shared["gate"], titles, titles, high=routing.top_k, digits=1)
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
    chosen = [one for one in routing.selections if one.method not in ablations] if routing else []
    if not chosen or routing is None:
        return [Missing(title, "no row of this run selects experts, or routing.json does not say which")]
    methods = dict.fromkeys(one.method for one in chosen)
    names = {profile.task: profile.title for profile in routing.profiles}
    return [
        _selected(routing, [one for one in chosen if one.method == method], names, title, index, len(methods))
        for index, method in enumerate(methods)
    ]


def _selected(
    routing: Routing, chosen: Sequence[Selection], names: dict[str, str], title: str, index: int, of: int
) -> Picture:
    tasks = list(dict.fromkeys([*(task for task in names if any(s.task == task for s in chosen))]))
    tasks += [task for task in dict.fromkeys(one.task for one in chosen) if task not in tasks]
    counts = np.array([[_count(chosen, task, layer) for task in tasks] for layer in routing.layers])
    titles = [names.get(task, task) for task in tasks]
    rows = [
        (chosen[0].method, layer, titles[j], float(counts[i, j]))
        for i, layer in enumerate(routing.layers)
        for j in range(len(tasks))
    ]

    def paint(axes: Sequence["Axes"]) -> None:
        whole = bool((counts == counts.round()).all())
        heatmap(axes[0], counts, [str(layer) for layer in routing.layers], titles, digits=0 if whole else 1)
        axes[0].set_ylabel("layer")

    name = "esft-5-experts" if of == 1 else f"esft-5-experts-{index + 1}"
    total = ", ".join(f"{text} {counts[:, j].sum():.0f}" for j, text in enumerate(titles))
    return Picture(
        name,
        f"{title}: {chosen[0].method_title}",
        f"Of {routing.num_experts} routed experts in each layer, those that {chosen[0].method_title} trains (mean over "
        f"seeds where these differ). In all layers: {total}.",
        ("method", "layer", "task", "experts"),
        rows,
        paint,
        height=1.4 + 0.3 * len(routing.layers),
    )


def by_layer(routing: Routing | None, ablations: frozenset[str]) -> Picture | Missing:
    """DAS Figure 4: experts trained in each layer, a line for each row that selects experts."""
    title = "Experts trained, by layer (DAS Figure 4)"
    chosen = [one for one in routing.selections if one.method not in ablations] if routing else []
    if not chosen or routing is None:
        return Missing(title, "no row of this run selects experts, or routing.json does not say which")
    grouped = _by_method(chosen)
    counts = {
        method: np.array([[len(one.experts.get(layer, ())) for layer in routing.layers] for one in ones], dtype=float)
        for method, ones in grouped.items()
    }
    return _over_layers(
        routing,
        "das-4-experts-by-layer",
        title,
        f"Experts trained of {routing.num_experts} routed ones in each layer: mean over a row's cells, band from the "
        "lowest to the highest.",
        "Experts trained",
        counts,
        {method: ones[0].method_title for method, ones in grouped.items()},
    )


def shift(routing: Routing | None) -> Picture | Missing:
    """DAS Figure 5: how far training moved the routing of a cell's own task."""
    title = "Routing shift (DAS Figure 5)"
    if routing is None or not routing.shifts:
        return Missing(title, "the run did not measure routing after training")
    grouped: dict[str, list[list[float]]] = {}
    titles: dict[str, str] = {}
    for one in routing.shifts:
        grouped.setdefault(one.method, []).append(one.distance)
        titles[one.method] = one.method_title
    return _over_layers(
        routing,
        "das-5-routing-shift",
        title,
        "Total variation between the distributions of token-expert pairs before and after training (0 as before, 1 "
        "nothing in common), on the cell's own task: mean over a row's cells, band from the lowest to the highest.",
        "Total variation",
        {method: np.array(values) for method, values in grouped.items()},
        titles,
    )


def _over_layers(
    routing: Routing,
    name: str,
    title: str,
    caption: str,
    label: str,
    values: dict[str, Array],
    titles: dict[str, str],
) -> Picture:
    """A line for each method over layers; `values` are arrays [cells, layers]."""
    style = looks(list(values))
    rows = [
        (method, titles[method], layer, *(float(part) for part in (v[:, i].mean(), v[:, i].min(), v[:, i].max())))
        for method, v in values.items()
        for i, layer in enumerate(routing.layers)
    ]

    def paint(axes: Sequence["Axes"]) -> None:
        from matplotlib.ticker import MaxNLocator

        for method, cells in values.items():
            look = style[method]
            band = (cells.min(axis=0), cells.max(axis=0))
            axes[0].fill_between(routing.layers, *band, color=look.colour, alpha=0.13, linewidth=0)
            axes[0].plot(routing.layers, cells.mean(axis=0), **_line(look, 1), label=titles[method])
        axes[0].set_xlabel("layer")
        axes[0].set_ylabel(label)
        axes[0].set_ylim(bottom=0)
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))

    height = 3.4 + 0.22 * ((len(values) + 1) // 2)
    return Picture(name, title, caption, ("method", "title", "layer", "mean", "min", "max"), rows, paint, height)


def cumulated(grid: Sequence[Sequence[float]]) -> Array:
    """Cumulated share of each layer's highest experts, [L][E]; a layer without weight stays 0."""
    scores = -np.sort(-np.asarray(grid, dtype=float), axis=1)
    total = scores.sum(axis=1, keepdims=True)
    return np.asarray(np.cumsum(scores / np.where(total > 0, total, 1.0), axis=1))


def shared_top(first: TaskProfile, second: TaskProfile, kind: str, k: int) -> float:
    """How many experts are among the top k of both profiles, mean over layers."""
    pairs = zip(getattr(first, kind), getattr(second, kind), strict=True)
    return float(np.mean([len(_top(a, k) & _top(b, k)) for a, b in pairs]))


ON_LIGHT, ON_DARK = "#101010", "#fefefe"
"""Inks of numbers on greys, which stay what they are where a page turns a figure's ink and paper dark."""


def heatmap(
    axes: "Axes",
    values: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    high: float | None = None,
    digits: int = 0,
) -> None:
    """Numbers on greys: dark is much. The same in colour and in print."""
    top = high or float(values.max()) or 1.0
    axes.imshow(values, cmap="Greys", vmin=0, vmax=top * 1.15, aspect="auto")
    for i, j in np.ndindex(values.shape):
        ink = ON_DARK if values[i, j] > 0.6 * top else ON_LIGHT
        axes.text(j, i, f"{values[i, j]:.{digits}f}", ha="center", va="center", color=ink, fontsize=10)
    axes.grid(visible=False)
    tilt = 40 if sum(map(len, columns)) > 30 else 0
    axes.set_xticks(
        range(len(columns)), columns, rotation=tilt, ha="right" if tilt else "center", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _top(scores: Sequence[float], k: int) -> set[int]:
    return set(np.argsort(-np.asarray(scores), kind="stable")[:k].tolist())


def _mean_and_spread(values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation over layers."""
    spread = values.std(axis=0, ddof=1) if values.shape[0] > 1 else np.zeros(values.shape[1])
    return values.mean(axis=0), spread


def _count(chosen: Sequence[Selection], task: str, layer: int) -> float:
    """Experts of a layer, mean over the task's cells; 0 where none is chosen."""
    cells = [len(one.experts.get(layer, ())) for one in chosen if one.task == task]
    return float(np.mean(cells)) if cells else 0.0


def _by_method(chosen: Sequence[Selection]) -> dict[str, list[Selection]]:
    grouped: dict[str, list[Selection]] = {}
    for one in chosen:
        grouped.setdefault(one.method, []).append(one)
    return grouped


def _line(look: Look, every: int) -> dict[str, Any]:
    return {"color": look.colour, "linestyle": look.dash, "marker": look.marker, "markevery": every}
