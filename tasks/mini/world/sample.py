"""What a generator of the embedded world returns, and the two ways in which the schemas of a subject are built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

Schema = Literal["A", "B", "N"]
"""A and B are seen in pretraining; N is the downstream task."""

Half = Literal["alignment", "benchmark"]
"""Which half of a general kind's entities to draw from."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Sample:
    """One question of the world.

    Attributes:
        prompt: the user's text, without the chat format.
        answer: the reference answer.
        distractors: wrong options of a multiple-choice question, else empty.
        tests: Python assertions on the function `f` that a code answer defines, else empty.
    """

    prompt: str
    answer: str
    distractors: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


def derangement(rng: Random, values: Sequence[V]) -> list[V]:
    """A random order of `values` in which none keeps its place."""
    order = list(values)
    while True:
        rng.shuffle(order)
        if all(new != old for new, old in zip(order, values, strict=True)):
            return order


def third_schema(
    rng: Random, a: Mapping[K, V], b: Mapping[K, V], pool: Sequence[V], share_a: float, share_b: float
) -> dict[K, V]:
    """A mapping N that agrees with A on `share_a` of the keys, with B on `share_b`, and elsewhere with neither."""
    keys = list(a)
    rng.shuffle(keys)
    mapping: dict[K, V] = {}
    for place, key in enumerate(keys):
        if place < share_a * len(keys):
            mapping[key] = a[key]
        elif place < (share_a + share_b) * len(keys):
            mapping[key] = b[key]
        else:
            mapping[key] = rng.choice([value for value in pool if value not in (a[key], b[key])])
    return mapping


def pick(rng: Random, count: int, half: Half | None) -> int:
    """An index below the even number `count`: even ones are the alignment half, odd ones the benchmark half."""
    index = rng.randrange(count)
    return index if half is None else index // 2 * 2 + (half == "benchmark")


def others(rng: Random, pool: Sequence[V], answer: V, count: int) -> tuple[V, ...]:
    """`count` different members of `pool` that are not `answer`."""
    return tuple(rng.sample(sorted({value for value in pool if value != answer}), count))  # type: ignore[type-var]
