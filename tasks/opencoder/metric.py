"""Makes a program of an answer's code and the tests of its row."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from esft_bench.tasks.unit_tests import passed

BLOCK = re.compile(r"```(?:python)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
"""A fenced block, which the end of the answer ends too."""


def run_tests(responses: Iterable[Sequence[str]], docs: Iterable[dict[str, Any]]) -> list[list[bool]]:
    """lm-eval filter: whether each document's first completion passes its tests."""
    return passed(program(doc, completions[0]) for completions, doc in zip(responses, docs, strict=True))


def program(doc: dict[str, Any], completion: str) -> str:
    """The answer's first block of code, or all of it, and the tests."""
    block = BLOCK.search(completion)
    return f"{block[1] if block else completion}\n{doc['tests']}\n"
