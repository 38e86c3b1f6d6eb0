"""The official score of an intent answer: 1 if the intent and the set of slots equal the reference's, else 0.

The clean-up and the comparison follow the ESFT release (deepseek-ai/ESFT, benchmarks.py, IntentEvaluator), and agree
with the stored score of every released completion. Where that code would crash (JSON that is no object, an answer of
full stops), the answer is wrong here. Spaces are dropped from predictions but, as there, not from references: an item
whose reference has a space in a slot cannot be won (1 of the 500).
"""

import json
from collections.abc import Sequence
from typing import Any

FULL_STOPS = ".。"
FENCE = "```json"


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: score one completion against the item's `answer`."""
    return {"exact_match": float(score(results[0], doc["answer"]))}


def score(completion: str, answer: str) -> int:
    """1 if the completion says what the reference answer (JSON) says, else 0. A completion that is no JSON is wrong."""
    reference = json.loads(answer)
    try:
        predicted = json.loads(clean(completion))
    except (json.JSONDecodeError, RecursionError):
        return 0
    if not isinstance(predicted, dict) or predicted.get("intent", "") != reference.get("intent", ""):
        return 0
    wanted = {(name, _value(value, drop_spaces=False)) for name, value in reference.get("slots", {}).items()}
    return int(_slots(predicted.get("slots", {})) == wanted)


def clean(completion: str) -> str:
    """The part of a completion that should be JSON: a fenced block if any, its first line, without full stops."""
    text = completion.strip().strip(FULL_STOPS)
    if FENCE in text:
        inside, fence, _ = text.partition(FENCE)[2].partition("```")
        text = inside if fence else "{}"
    lines = [line for line in text.split("\n") if line]
    return lines[0].strip(FULL_STOPS) if lines else ""


def _slots(slots: object) -> set[tuple[str, str]] | None:
    """The predicted slots as a set; None if they are not texts or lists under names."""
    if not isinstance(slots, dict) or not all(isinstance(value, str | list) for value in slots.values()):
        return None
    return {(name, _value(value, drop_spaces=True)) for name, value in slots.items()}


def _value(value: str | list[Any], *, drop_spaces: bool) -> str:
    """A slot's value in comparable form: order does not count in a list; spaces do not count in a prediction."""

    def text(part: object) -> str:
        return str(part).replace(" ", "") if drop_spaces else str(part)

    return str(tuple(sorted(text(part) for part in value))) if isinstance(value, list) else text(value)
