"""Whether an answer comes to the result that the reference comes to, both named in their last line."""

from collections.abc import Sequence
from typing import Any

from esft_bench.tasks.metamathqa.verified import answer_of, equal


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: 1 where a completion names the reference's result, else 0."""
    given = answer_of(results[0])
    return {"math_verify": float(bool(given) and equal(answer_of(doc["answer"]), given))}
