"""A stack of decoder layers of which many are alike: a few of them are carried out, and the others counted like those.

Of the longest run of layers that are alike five are kept, then four: the first ones and the last. While a step passes
them it is noted where each begins, on the way forth and on the way back. What happens between two such places, in bytes
and in operations, is a linear function of how many layers there are, so two numbers of layers tell it for any. The most
that is alive may be reached elsewhere in a long stack than in a short one: it is looked for in every stretch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from esft_bench.harness.plan.price.alive import Alive, Stretch

KEPT = 5
FORTH, BACK = "forth", "back"
NUMBERED = {"layer_idx", "training"}
"""What differs in layers that are alike, or is the same in all."""
REPEATED, CHECKED = ((FORTH, 1), (BACK, 1)), ((FORTH, 2), (BACK, 2))
"""The stretches that stand for those of layers that were cut, and others that must be like them."""


class Shortened:
    """A stack that was cut to a few layers of a run, those at `places`; there were `cut` more."""

    def __init__(self, stack: nn.ModuleList, config: Any, run: Sequence[int]) -> None:
        self._stack, self._config, self._places = stack, config, list(run)
        self.cut = 0
        for _ in range(len(run) - KEPT):
            self.drop()

    def drop(self) -> None:
        """Cut one layer more, the last but one of the run."""
        gone = self._places[-2]
        if isinstance(kinds := getattr(self._config, "layer_types", None), list):
            self._config.layer_types = [kind for place, kind in enumerate(kinds) if place != gone]
        del self._stack[gone]
        self._config.num_hidden_layers = len(self._stack)
        self._places.pop()
        self.cut += 1

    def mark(self, alive: Alive) -> Callable[[], None]:
        """Have `alive` told where each of the run's layers begins, the first time it does; returns what ends that."""
        begun: set[tuple[str, int]] = set()

        def begins(way: str, number: int) -> None:
            if (way, number) not in begun:  # layers are passed again where activations are computed again
                begun.add((way, number))
                alive.begin((way, number))

        layers = [self._stack[place] for place in self._places]
        handles = [each for number, layer in enumerate(layers[:-1]) for each in _hooked(layer, number, begins)]
        handles += _hooked(layers[-1], -1, begins)

        def ends() -> None:
            for handle in handles:
                handle.remove()

        return ends


def _hooked(layer: nn.Module, number: int, begins: Callable[[str, int], None]) -> Iterator[Any]:
    def leaves(_module: nn.Module, _inputs: Any, out: Any) -> None:
        first = out[0] if isinstance(out, tuple) else out
        if first.requires_grad:
            first.register_hook(lambda _: begins(BACK, number))

    yield layer.register_forward_pre_hook(lambda *_: begins(FORTH, number))
    yield layer.register_forward_hook(leaves)


def shorten(model: PreTrainedModel) -> Shortened | None:
    """Cut the longest run of a prepared model's alike layers, in place; None where there is none to cut."""
    kinds = set(model._no_split_modules or ())
    stacks = [
        (stack, holder.config)
        for holder in model.modules()
        for stack in holder.children()
        if isinstance(stack, nn.ModuleList) and hasattr(holder, "config") and {type(e).__name__ for e in stack} <= kinds
    ]
    if len(stacks) != 1:
        return None
    ((stack, config),) = stacks
    runs = [[place for place, _ in run] for _, run in groupby(enumerate(map(_form, stack)), key=lambda each: each[1])]
    run = max(runs, key=len, default=[])
    return Shortened(stack, config, run) if len(run) > KEPT else None


def _form(layer: nn.Module) -> Any:
    """What alike layers have in common: modules with what they are told, parameters and buffers."""
    told = [(name, type(each).__qualname__, sorted(_told(each))) for name, each in layer.named_modules()]
    tensors = (*layer.named_parameters(), *layer.named_buffers())
    return told, [(name, each.shape, each.dtype, each.requires_grad) for name, each in tensors]


def _told(module: nn.Module) -> Iterator[tuple[str, str]]:
    """The numbers, words and switches of a module."""
    for name, value in vars(module).items():
        if isinstance(value, int | float | str) and name not in NUMBERED:
            yield name, repr(value)


@dataclass(frozen=True)
class _Passed:
    """A stretch of the work by itself: what it adds to the bytes alive in the end and at most."""

    net: int
    most: int


def highest(four: Sequence[Stretch], five: Sequence[Stretch], cut: int) -> int | None:
    """The most bytes alive in a stack of `cut` layers more than four, given the stretches of four and of five.

    None where these do not tell it: where stretches of layers that are alike are not.
    """
    less, more = _passed(four), _passed(five)
    if any(
        len({less.get(each), more.get(each), less.get(like)}) > 1 for each, like in zip(REPEATED, CHECKED, strict=True)
    ):
        return None
    level = _linear(four[0].level, five[0].level, cut)
    peak = 0
    for name, passed in less.items():
        other = more[name]
        most, net = _linear(passed.most, other.most, cut), _linear(passed.net, other.net, cut)
        times = 1 + (cut if name in REPEATED else 0)
        peak = max(peak, level + most, level + (times - 1) * net + most)
        level += times * net
    return peak


def _passed(stretches: Sequence[Stretch]) -> Mapping[Any, _Passed]:
    ends = {here.name: after.level for here, after in pairwise(stretches)}
    return {one.name: _Passed(ends.get(one.name, one.level) - one.level, one.peak - one.level) for one in stretches}


def _linear(four: int, five: int, cut: int) -> int:
    return four + cut * (five - four)
