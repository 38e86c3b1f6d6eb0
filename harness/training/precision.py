"""Equal precision for every method: what is trained is of one type while it is trained, what is frozen may be half.

AdamW's small updates are lost where a weight is bfloat16: with 8 bits of it, a step below 1/256 of the weight rounds
away. So weights, gradients and states of whatever trains are float32 (16 bytes a parameter), products are bfloat16
(autocast), and what came out is rounded once, at the end, to the type that the backbone is stored in. An optimizer that
rounds at random holds them in bfloat16 instead, again for every method.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from esft_bench.harness.training.together.sharding import shares_a_model


@contextmanager
def held(parameters: Sequence[nn.Parameter], dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Hold parameters in a type while the block runs, in place; then round them to their own.

    Not those of a model that is to be shared out: there shards get the type, and no process holds all.
    """
    kept = [] if shares_a_model() else parameters
    others = [(parameter, parameter.dtype) for parameter in kept if parameter.dtype != dtype]
    _hold(others, dtype)
    try:
        yield
    finally:
        _hold(others, None)


def _hold(parameters: Sequence[tuple[nn.Parameter, torch.dtype]], dtype: torch.dtype | None) -> None:
    for parameter, own in parameters:
        parameter.grad = None
        parameter.data = parameter.data.to(dtype or own)


def products(precision: str) -> str:
    """accelerate's name of the precision of products, for a backbone's `precision`."""
    return "no" if precision == "float32" else "bf16"
