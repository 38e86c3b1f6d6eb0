"""Which process holds which experts: all hold equally many of a layer, and its selected ones are spread evenly.

A selected expert costs a process most: float32 weights, gradient and optimizer state, and gradients of weights to
compute. Routed by id, as transformers does it, they would lie anywhere, and the process that has most of them is the
one that the others wait for.
"""

from collections.abc import Mapping, Sequence

from esft_bench.methods.errors import MethodError

Placement = dict[int, list[list[int]]]
"""By layer number, for each process the ids of its experts: selected ones first, in the selection's order."""


def place(selection: Mapping[int, Sequence[int]], experts: Mapping[int, int], processes: int) -> Placement:
    """Give each of `processes` its experts of every layer; `experts` says how many a layer has.

    A layer's selected experts are dealt best first, each to the process that has fewest of that layer, then fewest of
    all layers before. So processes differ by one at most, in each layer and in all of them. Others fill up.

    Raises MethodError where processes do not divide a layer's experts.
    """
    totals = [0] * processes
    found: Placement = {}
    for layer, count in sorted(experts.items()):
        check_divides(count, processes)
        selected = selection.get(layer, ())
        dealt: list[list[int]] = [[] for _ in range(processes)]
        for expert in selected:
            _fewest(dealt, totals).append(expert)
        totals = [total + len(own) for total, own in zip(totals, dealt, strict=True)]
        for expert in sorted(set(range(count)).difference(selected)):
            _fewest(dealt, totals).append(expert)
        found[layer] = dealt
    return found


def check_divides(experts: int, processes: int) -> None:
    """Raise MethodError where so many experts of a layer cannot be shared out evenly."""
    if experts % processes:
        fitting = [count for count in range(2, experts + 1) if experts % count == 0]
        raise MethodError(
            f"{experts} experts of a layer cannot be shared out evenly among {processes} processes; set it to one of "
            f"{', '.join(map(str, fitting))}"
        )


def _fewest(dealt: list[list[int]], totals: Sequence[int]) -> list[int]:
    """The experts of the process that has fewest, of equals the one that has fewest of other layers."""
    return min(zip(dealt, totals, range(len(dealt)), strict=True), key=lambda own: (len(own[0]), *own[1:]))[0]
