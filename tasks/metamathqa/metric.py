"""Whether an answer comes to the result that the reference comes to, as math_verify compares them."""

from collections.abc import Sequence
from typing import Any

from math_verify import parse, verify

LAST_LINE = "The answer is:"
"""What every solution of MetaMathQA ends with, before its result."""


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: 1 where a completion has the reference's result, else 0."""
    return {"math_verify": float(bool(verify(parse(result(doc["answer"])), parse(result(results[0])))))}


def result(solution: str) -> str:
    """The result that a solution names in its last line, as LaTeX; the whole of one that names none."""
    found = solution.rpartition(LAST_LINE)
    return f"${found[2].strip().removesuffix('.').strip('$')}$" if found[1] else solution
