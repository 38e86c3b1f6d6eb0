"""Scores generated functions by running their unit tests."""

from collections.abc import Iterable, Sequence
from typing import Any

from esft_bench.tasks.sandbox import run_many


def run_tests(responses: Iterable[Sequence[str]], docs: Iterable[dict[str, Any]]) -> list[list[bool]]:
    """lm-eval filter: whether each document's first completion passes its tests. All run in one go, in the sandbox."""
    programs = [
        "\n".join([completions[0].strip(), *doc["tests"]]) + "\n"
        for completions, doc in zip(responses, docs, strict=True)
    ]
    return [[outcome.ok] for outcome in run_many(programs)]


def process(_doc: dict[str, Any], results: Sequence[Sequence[bool]]) -> dict[str, float]:
    """lm-eval metric `passed`: 1 for a function that passes all of its tests."""
    return {"passed": float(results[0][0])}
