"""Makes a program of a completed function and its unit tests."""

from collections.abc import Iterable, Sequence
from typing import Any

from esft_bench.tasks.unit_tests import FENCE, passed


def run_tests(responses: Iterable[Sequence[str]], docs: Iterable[dict[str, Any]]) -> list[list[bool]]:
    """lm-eval filter: whether each document's first completion passes its tests."""
    return passed(program(doc, completions[0]) for completions, doc in zip(responses, docs, strict=True))


def program(doc: dict[str, Any], completion: str) -> str:
    """The function's head, what the model wrote up to the fence, and the tests."""
    return f"{doc['head']}{completion.partition(FENCE)[0]}\n{doc['tests']}\n"
