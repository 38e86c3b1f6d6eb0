"""Which experts to train: by cumulated score, the highest, the lowest, or drawn at random in given numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from esft_bench.methods.errors import MethodError

if TYPE_CHECKING:
    from esft_bench.methods.moe.scores import Scores
    from esft_bench.methods.moe.view import MoeLayer

Selection = dict[int, list[int]]
"""Expert ids by layer number, best first."""

EPSILON = 1e-9
"""Sums this close below p count as p, so that the order of additions does not decide over an expert."""


def select(scores: Scores, p: float) -> Selection:
    """In each layer, take experts, highest score first, while the sum of those taken is below `p`.

    Among equal scores the lower expert id goes first. `p` is a threshold on the cumulated score, not a share of the
    experts; where a whole layer sums to less, as gate scores may, all its experts with a score are taken. Source: ESFT
    paper, the expert selection that follows Equations 6 and 7.

    Raises MethodError where `p` is outside (0, 1] or a score is not a finite number ≥ 0.
    """
    if not 0 < p <= 1:
        raise MethodError(f"p is {p}, but the threshold on the cumulated expert score must be above 0 and at most 1")
    if scores.signed:
        raise MethodError("differences of scores cannot be cumulated up to p; take a number of experts instead")
    return {layer: _cumulate(row, order, p) for layer, row, order in _ranked(scores)}


def highest(scores: Scores, count: int) -> Selection:
    """In each layer, take the `count` experts with the highest scores; among equal scores the lower id goes first.

    Raises MethodError where a layer has fewer experts or a score is no finite number, or is < 0 and not signed.
    """
    return {layer: _first(layer, order, count) for layer, _, order in _ranked(scores)}


def highest_of_all(scores: Scores, count: int) -> Selection:
    """Rank all experts of the model together and take the `count` highest, so that layers get unlike numbers.

    Among equal scores the lower layer goes first, then the lower id. Source: expert-concentration paper, Section 3.2.
    Raises MethodError where the model has fewer experts or a score is no finite number, or is < 0 and not signed.
    """
    return _first_of_all(scores, count, descending=True)


def lowest_of_all(scores: Scores, count: int) -> Selection:
    """The same with the `count` lowest scores, lowest first: the experts that are least the domain's own."""
    return _first_of_all(scores, count, descending=False)


def _first_of_all(scores: Scores, count: int, *, descending: bool) -> Selection:
    check_scores(scores)
    layers, experts = scores.values.shape
    if count > layers * experts:
        raise MethodError(f"the model has {layers * experts} routed experts in all, {count} are asked for")
    ranked = scores.values.flatten().sort(descending=descending, stable=True).indices[:count].tolist()
    chosen: Selection = {layer: [] for layer in scores.layers}
    for place in ranked:
        chosen[scores.layers[place // experts]].append(place % experts)
    return chosen


def lowest(scores: Scores, counts: Mapping[int, int]) -> Selection:
    """In each layer, take as many experts as `counts` says (0 where it does not), those with the lowest scores.

    Lowest first, the exact reverse of the order in which `select` takes them. Raises MethodError as `highest` does.
    """
    return {layer: _first(layer, order[::-1], counts.get(layer, 0)) for layer, _, order in _ranked(scores)}


def _ranked(scores: Scores) -> Iterator[tuple[int, list[float], list[int]]]:
    """Each layer's number, its row of scores and its expert ids, highest score first, of equal ones the lower id."""
    check_scores(scores)
    for layer, row in zip(scores.layers, scores.values.tolist(), strict=True):
        yield layer, row, sorted(range(len(row)), key=lambda expert: (-row[expert], expert))


def check_scores(scores: Scores) -> None:
    """Raise MethodError, naming layer and expert, for a score that is no finite number, or below 0 and not signed."""
    check_rows(dict(zip(scores.layers, scores.values.tolist(), strict=True)), scores.signed)


def check_rows(rows: Mapping[int, Sequence[float]], signed: bool = False) -> None:
    """The same for scores by layer number."""
    for layer, row in rows.items():
        for expert, value in enumerate(row):
            if not math.isfinite(value) or (value < 0 and not signed):
                raise MethodError(f"the score of expert {expert} in layer {layer} is {value}; profile the data again")


def _cumulate(row: Sequence[float], order: Sequence[int], p: float) -> list[int]:
    taken: list[int] = []
    total = 0.0
    for expert in order:
        if total >= p - EPSILON or row[expert] == 0:
            break
        taken.append(expert)
        total += row[expert]
    return taken


def _first(layer: int, experts: list[int], count: int) -> list[int]:
    check_count(layer, len(experts), count)
    return experts[:count]


def check_count(layer: int, experts: int, count: int) -> None:
    """Raise MethodError where a layer has fewer experts than are asked for."""
    if count > experts:
        raise MethodError(f"layer {layer} has {experts} experts, {count} are asked for")


def draw(selection: Mapping[int, Sequence[int]], num_experts: int, seed: int) -> Selection:
    """Draw as many experts in each layer as `selection` has there, uniformly without replacement; ESFT paper, Table 3.

    A layer's draw depends on `seed` and the layer's number alone. Raises MethodError where a layer has too few experts.
    """
    for layer, chosen in selection.items():
        check_count(layer, num_experts, len(chosen))
    return {
        layer: sorted(random.Random(f"{seed}:{layer}").sample(range(num_experts), len(chosen)))
        for layer, chosen in selection.items()
    }


def check(selection: Mapping[int, Sequence[int]], layers: Mapping[int, MoeLayer]) -> None:
    """Refuse a selection that does not fit a model: raises MethodError naming layer and expert."""
    for layer, chosen in selection.items():
        if layer not in layers:
            raise MethodError(f"the selection names layer {layer}; the model's MoE layers are {_span(layers)}")
        experts = layers[layer].num_experts
        if wrong := [expert for expert in chosen if not 0 <= expert < experts]:
            raise MethodError(
                f"the selection names expert {wrong[0]} in layer {layer}, which has experts 0 to {experts - 1}"
            )
        if len(set(chosen)) < len(chosen):
            raise MethodError(f"the selection names an expert of layer {layer} twice")
    if not any(selection.values()):
        raise MethodError("the selection is empty, so nothing would be trained; raise p or profile the data again")


def _span(layers: Mapping[int, MoeLayer]) -> str:
    return ", ".join(str(layer) for layer in layers)
