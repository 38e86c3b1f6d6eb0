"""lm-eval's `bits_per_byte` for an answer to a question; its own counts whole texts."""

from collections.abc import Sequence
from typing import Any


def process(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """Log-likelihood of the answer, and its bytes with the space before it."""
    return {"bits_per_byte": (results[0][0], len(f" {doc['answer']}".encode()))}
