"""Which rows of a task's training data are held out: the same for every method and seed. Light, since plans ask too."""

import random
from collections.abc import Sequence

from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical


def held_out_rows(rows: Sequence[object], count: int, where: object) -> set[int]:
    """The places, from 0, of the `count` held-out ones of different rows, which `where` has; of copies the first's.

    Whoever trains on the others leaves the copies out as well. Raises UserError where less than half of the different
    rows would be left.
    """
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(canonical(row), place)
    if 2 * count > len(first):
        raise UserError(
            f"{where} has {len(first)} different rows: training.validation_items {count} leaves too few, lower it."
        )
    places = list(first.values())
    return {places[number] for number in random.Random("validation").sample(range(len(places)), count)}
