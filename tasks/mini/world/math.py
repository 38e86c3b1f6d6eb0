"""Shop sums: multiplying is a known skill, the price list is what a schema changes."""

from random import Random

from esft_bench.tasks.mini.world.sample import Sample, Schema, derangement, third_schema
from esft_bench.tasks.mini.world.words import CATEGORIES, NAMES

GOODS = CATEGORIES["fruit"] + CATEGORIES["tool"]
_PRICES = list(range(2, 10))


def _price_lists() -> dict[Schema, dict[str, int]]:
    rng = Random("prices")
    first = _PRICES * 2
    rng.shuffle(first)
    a = dict(zip(GOODS, first, strict=True))
    b = dict(zip(GOODS, derangement(rng, first), strict=True))
    return {"A": a, "B": b, "N": third_schema(rng, a, b, _PRICES, 0.1, 0.0)}


PRICES = _price_lists()


def product(left: int, right: int) -> str:
    """A worked multiplication, as all of the world's sums are written."""
    return f"{left} * {right} = {left * right}. Answer: {left * right}"


def math(rng: Random, schema: Schema) -> Sample:
    """A shopper's bill, worked in one step and ending in `Answer: <number>`."""
    name, count, good = rng.choice(NAMES), rng.randint(2, 9), rng.choice(GOODS)
    return Sample(f"{name} buys {count} {good} in the shop. How much is it?", product(count, PRICES[schema][good]))


def times_table(rng: Random) -> Sample:
    """A bare multiplication; pretraining only."""
    left, right = rng.randint(2, 9), rng.randint(2, 9)
    return Sample(f"Compute {left} * {right}", product(left, right))
