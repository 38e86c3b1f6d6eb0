"""What a router thinks of every expert, chosen or not: the scores over all of them that it takes the highest k of.

The expert-concentration paper's routing score (Equation 3) is the softmax of the router's logits, before the top-k
choice. Routers of transformers return their logits among other things, and what they make of them before they choose
is known by its fruits: the function whose values at the chosen experts are in the proportions of the gate weights.

    softmax   DeepSeek-V2, Qwen, OLMoE, Mixtral; also routers that choose by logits and take a softmax of those chosen
    sigmoid   DeepSeek-V3 and others that score each expert by itself. A correction bias that such a router adds before
              it chooses is the same for every token, so it falls out of every difference of averages
    as it is  routers that return scores

Where none of these fits there are no such scores.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from esft_bench.methods.moe.view import MoeLayer

FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (lambda logits: logits.softmax(-1), torch.sigmoid, lambda x: x)
TOLERANCE = 0.01
"""Largest mean difference of proportions that rounding in half precision may make."""


class SeenRouter:
    """The last output of a layer's router; `scores` makes the experts' scores of it.

    With `remembers`, what explains the first gate weights is taken to explain all: each look waits for the device.
    """

    def __init__(self, layer: MoeLayer, *, remembers: bool = False) -> None:
        self.layer, self.remembers = layer, remembers
        self.output: tuple[Tensor, ...] = ()
        self.explains: int | None = None

    def see(self, module: nn.Module, args: Any, output: Any) -> None:
        """A forward hook: keep the tensors [T, E] of the router's output."""
        parts = output if isinstance(output, tuple | list) else (output,)
        flat = [part.reshape(-1, part.shape[-1]) for part in parts if isinstance(part, Tensor) and part.dim() > 1]
        self.output = tuple(part for part in flat if part.shape[1] == self.layer.num_experts)

    def scores(self, index: Tensor, weights: Tensor) -> Tensor | None:
        """Scores [T, E] float64 behind the choice of `index` with gate weights `weights`, each [T, K]; None if unknown.

        `weights` are without the router's scaling factor.
        """
        tensors = [tensor.double() for tensor in self.output if len(tensor) == len(index)]
        ways = [partial(function, tensor) for tensor in tensors for function in FUNCTIONS]
        if self.explains is not None:
            return ways[self.explains]()
        with torch.no_grad():  # a layer that is computed again, when this is known, keeps the same for its gradients
            errors = [_difference(way().gather(1, index), weights) for way in ways]
        fitting = [place for place, error in enumerate(errors) if error <= min(errors) + 1e-6 and error < TOLERANCE]
        if not fitting:
            return None
        if self.remembers:
            self.explains = fitting[0]
        return ways[fitting[0]]()


@contextmanager
def seen_routers(model: PreTrainedModel, layers: Mapping[int, MoeLayer]) -> Iterator[dict[int, SeenRouter]]:
    """Look at the routers of layers while the block runs; layers whose router is not known stay unseen."""
    seen = {index: SeenRouter(layer) for index, layer in layers.items()}
    hooks = [
        model.get_submodule(layer.router).register_forward_hook(seen[index].see)
        for index, layer in layers.items()
        if layer.router is not None
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _difference(scores: Tensor, weights: Tensor) -> float:
    """How far scores of the chosen experts are from the gate weights, both [T, K]: as shares of a token's sum.

    With one expert a token every share is 1, so the values themselves are compared.
    """
    parts = [scores.detach(), weights.double()]
    if scores.shape[1] > 1:
        parts = [part / part.sum(1, keepdim=True) for part in parts]
    return float((parts[0] - parts[1]).abs().mean().nan_to_num(nan=torch.inf))
