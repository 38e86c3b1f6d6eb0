"""Which experts to train: by cumulated score, or drawn at random in the same numbers."""

import math
import random
from collections.abc import Mapping, Sequence

from methods.errors import MethodError
from methods.moe.scores import Scores
from methods.moe.view import MoeLayer

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
    return {layer: _cumulate(layer, row, p) for layer, row in zip(scores.layers, scores.values.tolist(), strict=True)}


def _cumulate(layer: int, row: Sequence[float], p: float) -> list[int]:
    for expert, value in enumerate(row):
        if not math.isfinite(value) or value < 0:
            raise MethodError(f"the score of expert {expert} in layer {layer} is {value}; profile the data again")
    taken: list[int] = []
    total = 0.0
    for expert in sorted(range(len(row)), key=lambda expert: (-row[expert], expert)):
        if total >= p - EPSILON or row[expert] == 0:
            break
        taken.append(expert)
        total += row[expert]
    return taken


def draw(selection: Mapping[int, Sequence[int]], num_experts: int, seed: int) -> Selection:
    """Draw as many experts in each layer as `selection` has there, uniformly without replacement; ESFT paper, Table 3.

    A layer's draw depends on `seed` and the layer's number alone. Raises MethodError where a layer has too few experts.
    """
    for layer, chosen in selection.items():
        if len(chosen) > num_experts:
            raise MethodError(f"layer {layer} has {num_experts} experts, {len(chosen)} are asked for")
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
