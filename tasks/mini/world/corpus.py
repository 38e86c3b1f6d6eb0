"""The text that the backbone is pretrained on."""

from collections.abc import Iterator
from random import Random

from tasks.mini.world.general import GENERAL
from tasks.mini.world.math import times_table
from tasks.mini.world.narrow import NARROW
from tasks.mini.world.sample import Sample
from tasks.mini.world.words import WORDS

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
"""Share of documents of each kind."""


def document(rng: Random) -> list[Sample]:
    """One to three samples of one kind and, for a narrow subject, of one schema, A or B."""
    kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    count = rng.randint(1, 3)
    if kind in NARROW:
        schema = rng.choice("AB")
        return [NARROW[kind](rng, "A" if schema == "A" else "B") for _ in range(count)]
    if kind in GENERAL:
        return [GENERAL[kind](rng, None) for _ in range(count)]
    return [times_table(rng) if kind == "sums" else _copying(rng) for _ in range(count)]


def documents(seed: int) -> Iterator[list[Sample]]:
    """Documents without end, the same for the same seed."""
    rng = Random(seed)
    while True:
        yield document(rng)


def _copying(rng: Random) -> Sample:
    """Words to repeat: each becomes a word that the model can say."""
    words = " ".join(rng.sample(WORDS, 4))
    return Sample(f"Copy: {words}", words)
