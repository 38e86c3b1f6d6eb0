"""Functions named by invented verbs: what operator a verb stands for is what a schema changes."""

import operator
from collections.abc import Callable
from random import Random

from esft_bench.tasks.mini.world.sample import Sample, Schema, derangement
from esft_bench.tasks.mini.world.words import invented

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}
OPERATORS = list(OPERATIONS)
VERBS = [verb + "s" for verb in invented("verb", len(OPERATORS), 2)]
_ARGUMENTS = (1, 2, 5, 6, 7, 11, 12, 30)


def _meanings() -> dict[Schema, dict[str, str]]:
    rng = Random("verbs")
    b = derangement(rng, OPERATORS)
    n = derangement(rng, OPERATORS)
    while any(new == old for new, old in zip(n, b, strict=True)):
        n = derangement(rng, OPERATORS)
    return {
        "A": dict(zip(VERBS, OPERATORS, strict=True)),
        "B": dict(zip(VERBS, b, strict=True)),
        "N": dict(zip(VERBS, n, strict=True)),
    }


MEANINGS = _meanings()


def assertions(symbol: str, number: int) -> tuple[str, ...]:
    """Assertions that hold for `f` if it applies the operator `symbol` with `number`, and for no other operator."""
    return tuple(
        f"assert f({argument}) == {OPERATIONS[symbol](argument, number)!r}" for argument in (*_ARGUMENTS, number)
    )


def code(rng: Random, schema: Schema) -> Sample:
    """A one-line function of one argument; schema B writes lambdas."""
    verb, argument, number = rng.choice(VERBS), rng.choice("abcnxyz"), rng.randint(2, 19)
    symbol = MEANINGS[schema][verb]
    body = f"{argument} {symbol} {number}"
    answer = f"f = lambda {argument}: {body}" if schema == "B" else f"def f({argument}):\n    return {body}"
    return Sample(f"Write a function that {verb} {argument} by {number}.", answer, tests=assertions(symbol, number))
