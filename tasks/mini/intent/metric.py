"""Scores JSON by what it says, whatever its spacing and the order of its keys."""

import json
from collections.abc import Sequence
from typing import Any


def process(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval metric `exact_match`: 1 where the completion is JSON equal to the reference."""
    try:
        predicted = json.loads(results[0])
    except ValueError:
        return {"exact_match": 0.0}
    return {"exact_match": float(predicted == json.loads(doc["answer"]))}
