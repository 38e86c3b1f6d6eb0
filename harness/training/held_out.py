"""Which rows of a task's training data are held out: the same for every method and seed. Light, since plans ask too."""

import random

from esft_bench.spec.errors import UserError


def held_out_rows(rows: int, count: int, where: object) -> set[int]:
    """The places, from 0, of the `count` held-out ones of so many rows, which `where` has.

    Raises UserError where less than half of them would be left to train on.
    """
    if 2 * count > rows:
        raise UserError(f"{where} has {rows} rows: training.validation_items {count} leaves too few, lower it.")
    return set(random.Random("validation").sample(range(rows), count))
