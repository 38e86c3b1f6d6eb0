"""Training and test sets of the world: finite, seeded, and without a prompt in common."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from random import Random

from esft_bench.tasks.mini.world.general import GENERAL
from esft_bench.tasks.mini.world.narrow import NARROW
from esft_bench.tasks.mini.world.sample import Sample

ABILITY_TESTS = 200
GENERAL_TESTS = 100
TRAINING = 2400
"""Samples of a task; at some 30 tokens each, 100 steps of 8 x 128 tokens take in at most 51,200 of them."""
ALIGNMENT = 3200
GENERAL_TEXT = 400
"""Samples behind a measure of drift."""


def ability_test(name: str) -> list[Sample]:
    """The test set of a narrow subject's new schema."""
    return _distinct(lambda rng: NARROW[name](rng, "N"), f"test {name}", ABILITY_TESTS)


def ability_training(name: str) -> list[Sample]:
    """The training set of a narrow subject's new schema; prompts may repeat, none is in the test set."""
    held_out = {sample.prompt for sample in ability_test(name)}
    rng = Random(f"training {name}")
    draws = iter(partial(NARROW[name], rng, "N"), None)
    return list(islice((sample for sample in draws if sample.prompt not in held_out), TRAINING))


def general_test(name: str) -> list[Sample]:
    """The test set of a general kind, about the benchmark half of its entities."""
    return _distinct(lambda rng: GENERAL[name](rng, "benchmark"), f"test {name}", GENERAL_TESTS)


def general_text(name: str) -> list[Sample]:
    """All general kinds mixed evenly, about the benchmark half of their entities; another set for another name."""
    return _distinct(lambda rng: GENERAL[rng.choice(list(GENERAL))](rng, "benchmark"), name, GENERAL_TEXT)


def alignment() -> list[Sample]:
    """All general kinds mixed evenly, about the alignment half of their entities."""
    rng = Random("alignment")
    return [GENERAL[rng.choice(list(GENERAL))](rng, "alignment") for _ in range(ALIGNMENT)]


def _distinct(draw: Callable[[Random], Sample], seed: str, count: int) -> list[Sample]:
    """`count` samples with different prompts."""
    rng = Random(seed)
    samples: dict[str, Sample] = {}
    while len(samples) < count:
        sample = draw(rng)
        samples.setdefault(sample.prompt, sample)
    return list(samples.values())
