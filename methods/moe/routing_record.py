"""The measures of routing that a run stores in `routing.json`, in the form in which its figures show them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product

import torch
from torch import Tensor

from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.routing import (
    concentration_shares,
    mean_and_deviation,
    over_cells,
    overlap,
    selected_counts,
)
from esft_bench.methods.moe.scores import Scores, expert_scores
from esft_bench.methods.moe.selection import Selection, highest
from esft_bench.spec.routing import Concentration, Kind, OfCell, OverCells, Overlap, Quantity, SelectedExperts, Shift

KINDS: tuple[Kind, ...] = ("gate", "token")


def concentration_of(task: str, title: str, seen: Profile, kind: Kind) -> Concentration:
    """How much of a layer's weight its highest experts hold on a task's data, over layers."""
    shares = concentration_shares(expert_scores(seen, kind, "released"))
    mean, deviation = mean_and_deviation(shares)
    each = [part.tolist() for part in mean_and_deviation(torch.diff(shares, prepend=torch.zeros_like(shares[:, :1])))]
    return Concentration(
        task=task,
        title=title,
        score=kind,
        mean=mean.tolist(),
        deviation=deviation.tolist(),
        each_mean=each[0],
        each_deviation=each[1],
    )


def overlaps_of(seen: Mapping[str, list[Profile]]) -> Iterator[Overlap]:
    """Of all pairs of tasks that have two samples, a first sample against a second one."""
    both = {task: samples for task, samples in seen.items() if len(samples) > 1}
    for (first, one), (second, other) in product(both.items(), repeat=2):
        for kind in KINDS:
            shared = float(overlap(one[0], other[1], score=kind).double().mean())
            yield Overlap(first=first, second=second, score=kind, shared=shared)


def experts_over_cells(selections: Sequence[SelectedExperts], layers: Sequence[int]) -> Iterator[OverCells]:
    """Experts trained by each row: in all its cells, and in those of each task."""
    counts = [(one, selected_counts(one.experts, layers)) for one in selections]
    return chain(_over_cells("experts", counts), _over_cells("experts", counts, by_task=True))


def beside_own(given: Selection, chosen: Selection, scores: Scores) -> dict[str, list[int]]:
    """A given selection beside the one that scores come to, by layer: the fields of `GivenSelection`."""
    most = max(map(len, given.values()), default=0)
    ranked = highest(scores, most)
    pairs = [(given.get(layer, []), chosen.get(layer, []), ranked[layer]) for layer in scores.layers]
    return {
        "given": [len(theirs) for theirs, _, _ in pairs],
        "chosen": [len(ours) for _, ours, _ in pairs],
        "both": [len({*theirs} & {*ours}) for theirs, ours, _ in pairs],
        "as_many": [len({*theirs} & {*order[: len(theirs)]}) for theirs, _, order in pairs],
    }


def shifts_over_cells(shifts: Sequence[Shift]) -> Iterator[OverCells]:
    """How far the routing moved in each row's cells, by both measures."""
    distances = [(one, torch.tensor(one.distance, dtype=torch.float64)) for one in shifts]
    known = [(one, torch.tensor(one.consistency, dtype=torch.float64)) for one in shifts if one.consistency]
    return chain(_over_cells("shift", distances), _over_cells("consistency", known))


def _over_cells(
    quantity: Quantity, cells: Sequence[tuple[OfCell, Tensor]], *, by_task: bool = False
) -> Iterator[OverCells]:
    """A quantity [L] of cells over the cells of each row, or of each row and task."""
    groups: dict[tuple[str, str], list[tuple[OfCell, Tensor]]] = {}
    for one, values in cells:
        groups.setdefault((one.method, one.task if by_task else ""), []).append((one, values))
    for (method, task), members in groups.items():
        mean, low, high = (part.tolist() for part in over_cells([values for _, values in members]))
        title = members[0][0].method_title
        yield OverCells(quantity=quantity, method=method, method_title=title, task=task, mean=mean, low=low, high=high)
