"""lm-eval's check of instructions, and what becomes of an item that cannot be checked here."""

import contextlib
import io
import json
from collections.abc import Sequence
from typing import Any

METRICS = ("prompt_level_strict_acc", "prompt_level_loose_acc")


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float | None]:
    """Whether all instructions were kept, strictly and loosely; None where a check's NLTK data are missing."""
    with contextlib.redirect_stdout(io.StringIO()):  # it tries a download when imported, and talks about it
        from lm_eval.tasks.ifeval.utils import process_results as check

    asked = {**doc, "kwargs": json.loads(doc["kwargs"])}
    try:
        checked = check(asked, [results[0].strip()])
    except LookupError as error:
        if "punkt" not in str(error):
            raise
        return dict.fromkeys(METRICS)
    return {metric: float(checked[metric]) for metric in METRICS}


def mean_of_scored(values: Sequence[float | None]) -> float:
    """The mean of the items that could be checked."""
    scored = [value for value in values if value is not None]
    return sum(scored) / len(scored) if scored else float("nan")
