"""The text that the backbone is pretrained on."""

from collections.abc import Callable, Iterator, Mapping
from random import Random

from esft_bench.tasks.mini.world.general import GENERAL, pronouns
from esft_bench.tasks.mini.world.math import times_table
from esft_bench.tasks.mini.world.narrow import NARROW
from esft_bench.tasks.mini.world.sample import Sample
from esft_bench.tasks.mini.world.words import WORDS

WEIGHTS = {
    "math": 0.11,
    "sums": 0.04,
    "code": 0.11,
    "intent": 0.08,
    "summary": 0.08,
    "law": 0.10,
    "translation": 0.12,
    "facts": 0.10,
    "exam-en": 0.06,
    "science": 0.03,
    "cloze": 0.03,
    "exam-zh": 0.04,
    "pronouns": 0.04,
    "format": 0.04,
    "copy": 0.02,
}
"""How many documents of each kind there are, relative to the others."""

LATE_WEIGHTS = WEIGHTS | {
    "math": 0.04,
    "sums": 0.01,
    "code": 0.04,
    "intent": 0.12,
    "summary": 0.08,
    "law": 0.04,
    "translation": 0.10,
    "facts": 0.04,
    "exam-en": 0.03,
    "exam-zh": 0.03,
    "cloze": 0.02,
    "science": 0.04,
    "pronouns": 0.12,
    "because": 0.12,
    "format": 0.12,
    "copy": 0.10,
}
"""The same at the end of pretraining: more of what is learned last: copying, and what pronouns stand for. Pronouns
after `because` alone help there: trait and connective decide together, which neither of them gives a hint of."""


def _copying(rng: Random) -> Sample:
    """Words to repeat: each becomes a word that the model can say."""
    words = " ".join(rng.sample(WORDS, 4))
    return Sample(f"Copy: {words}", words)


_HELPERS: dict[str, Callable[[Random], Sample]] = {
    "sums": times_table,
    "copy": _copying,
    "because": lambda rng: pronouns(rng, always_because=True),
}
"""Kinds that nothing is tested on."""


def document(rng: Random, weights: Mapping[str, float] = WEIGHTS) -> list[Sample]:
    """One to three samples of one kind and, for a narrow subject, of one schema, A or B."""
    kind = rng.choices(list(weights), list(weights.values()))[0]
    count = rng.randint(1, 3)
    if kind in NARROW:
        schema = rng.choice("AB")
        return [NARROW[kind](rng, "A" if schema == "A" else "B") for _ in range(count)]
    if kind in GENERAL:
        return [GENERAL[kind](rng, None) for _ in range(count)]
    return [_HELPERS[kind](rng) for _ in range(count)]


def documents(seed: int, weights: Mapping[str, float] = WEIGHTS) -> Iterator[list[Sample]]:
    """Documents without end, the same for the same seed."""
    rng = Random(seed)
    while True:
        yield document(rng, weights)
