"""What the benchmarks of code share: running programs in the sandbox as lm-eval's filter, and its metric `passed`."""

from collections.abc import Iterable, Sequence
from typing import Any

from esft_bench.tasks.sandbox import run_many

FENCE = "```"
SECONDS = 10.0


def passed(programs: Iterable[str]) -> list[list[bool]]:
    """Whether each program, tests included, runs to its end. All run in one go, in the sandbox."""
    return [[outcome.ok] for outcome in run_many(list(programs), seconds=SECONDS)]


def process(_doc: dict[str, Any], results: Sequence[Sequence[bool]]) -> dict[str, float]:
    """lm-eval's metric `passed`: 1 for a program that passes all of its tests."""
    return {"passed": float(results[0][0])}
