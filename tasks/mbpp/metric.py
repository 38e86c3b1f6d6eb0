"""Makes a program of a generated function and its tests."""

from collections.abc import Iterable, Sequence
from typing import Any

from esft_bench.tasks.unit_tests import FENCE, passed


def run_tests(responses: Iterable[Sequence[str]], docs: Iterable[dict[str, Any]]) -> list[list[bool]]:
    """lm-eval filter: whether each document's first completion passes its tests."""
    return passed(program(doc, completions[0]) for completions, doc in zip(responses, docs, strict=True))


def program(doc: dict[str, Any], completion: str) -> str:
    """What the model wrote up to the fence, and the tests."""
    return f"{completion.partition(FENCE)[0]}\n{doc['tests']}\n"
