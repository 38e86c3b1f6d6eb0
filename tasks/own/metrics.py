"""How answers to a user's own rows are scored, each in [0, 1]; the reference that fits best counts.

What each item is scored by stands in it: `metric` and `clean`. The metrics are those of rouge_score,
sacrebleu and, in transformers, SQuAD.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from esft_bench.tasks.unit_tests import FENCE, passed

NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
"""lm-eval's pattern of a number (GSM8K, flexible-extract)."""
ARTICLES = r"\b(a|an|the)\b"
LETTER = re.compile(r"(?<![A-Za-z])([A-J])(?![A-Za-z])")
WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")
"""Words; Chinese and Japanese characters are words each."""


def process(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: the score of a completion under the name of its metric."""
    cleaned = CLEAN[doc["clean"]]
    predicted = cleaned(results[0])
    score = METRICS[doc["metric"]]
    return {doc["metric"]: max(score(predicted, cleaned(each)) for each in (doc["answer"], *doc["others"]))}


def run_tests(responses: Iterable[Sequence[str]], docs: Iterable[dict[str, Any]]) -> list[list[bool]]:
    """lm-eval's filter: whether each document's completion passes its tests. All run in one go, in the sandbox."""
    return passed(program(completions[0], doc["tests"]) for completions, doc in zip(responses, docs, strict=True))


def program(completion: str, tests: str) -> str:
    """The code in a completion, that of its first fence where it has one, and the tests."""
    inside = re.search(rf"{FENCE}[a-z]*\n(.*?)(?:{FENCE}|\Z)", completion, re.DOTALL)
    return f"{inside[1] if inside else completion}\n{tests}\n"


def _exact(predicted: str, reference: str) -> float:
    return float(predicted == reference)


def _contains(predicted: str, reference: str) -> float:
    return float(reference in predicted)


def _token_f1(predicted: str, reference: str) -> float:
    from transformers.data.metrics.squad_metrics import compute_f1

    return float(compute_f1(*(" ".join(WORDS.findall(text)) for text in (reference, predicted))))


def _rouge(predicted: str, reference: str) -> float:
    return float(_rouge_scorer().score(reference, predicted)["rougeL"].fmeasure)


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Words:
        """Any script's words; rouge_score's own tokenizer drops all that is not ASCII."""

        def tokenize(self, text: str) -> list[str]:
            """The words of a text."""
            return WORDS.findall(text.lower())

    return RougeScorer(["rougeL"], tokenizer=Words())


def _chrf(predicted: str, reference: str) -> float:
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(predicted, [reference]).score) / 100


def _json_fields(predicted: str, reference: str) -> float:
    """The share of fields that are equal, of all that either has; 0 for what is no JSON."""
    found, wanted = _first_json(predicted), _first_json(reference)
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return float(found is not None and found == wanted)
    fields = found.keys() | wanted.keys()
    equal = sum(field in found and field in wanted and found[field] == wanted[field] for field in fields)
    return equal / len(fields) if fields else 1.0


def _first_json(text: str) -> Any:
    for place in (found.start() for found in re.finditer(r"[{\[]", text)):
        try:
            return json.JSONDecoder().raw_decode(text, place)[0]
        except (ValueError, RecursionError):
            continue
    return None


def _plain(text: str) -> str:
    """Lower case, without punctuation, articles and needless spaces (SQuAD's normalisation, for any script)."""
    words = re.sub(r"[^\w\s]", " ", text.lower())
    return " ".join(re.sub(ARTICLES, " ", words).split())


def _number(text: str) -> str:
    found = re.findall(NUMBER, text)
    plain = next(filter(None, found[-1])).replace("$", "").replace(",", "").rstrip(".") if found else ""
    try:
        return f"{float(plain):g}" if len(plain) < 16 else plain
    except ValueError:
        return plain


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _letter(text: str) -> str:
    found = LETTER.search(text)
    return found[1] if found else text.strip()


METRICS: Mapping[str, Callable[[str, str], float]] = {
    "exact_match": _exact,
    "contains": _contains,
    "token_f1": _token_f1,
    "rouge": _rouge,
    "chrf": _chrf,
    "json": _json_fields,
}
CLEAN: Mapping[str, Callable[[str], str]] = {
    "strip": str.strip,
    "text": _plain,
    "number": _number,
    "first-line": _first_line,
    "letter": _letter,
}
"""Clean-ups by name, done to the completion and to the reference alike."""
