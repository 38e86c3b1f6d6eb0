"""Which solutions of MetaMathQA are right: math_verify against the answer of the problem that a row was made from.

Rows are made from the training problems of GSM8K and MATH (`original_question`). A row that asks for the answer, in the
problem's words or in others, is held against the data set's own. A row that tells the answer and asks for a number of
the problem in its place (types SV and FOBAR: "the value of unknown variable x") is held against that number. Where
neither is known the row does not pass.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.gsm8k import DATASET as GSM8K
from esft_bench.tasks.gsm8k import FIELDS as GSM8K_FIELDS
from esft_bench.tasks.math import MATH
from esft_bench.tasks.sieve import Keep
from esft_bench.tasks.source import Row, Source

SAYS = "The answer is:"
"""What MetaMathQA has before a solution's answer."""
ASKS = "value of unknown variable x"
"""What rows say that ask for a number of the problem."""
UNKNOWN = re.compile(r"\bx\b")
NUMBER = re.compile(r"[$€£]?(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)")


def verified(source: Source) -> Keep:
    """The test. A data folder may lack either of the two sets: problems of it then have no reference."""
    answers = dict(_answers(source))

    def keep(row: Row) -> bool:
        given = answer_of(row["response"])
        reference = reference_of(row, answers)
        return bool(given and reference) and equal(reference, given)

    return keep


def answer_of(response: str) -> str:
    """The answer that a solution ends with; empty where it names none."""
    return response.rpartition(SAYS)[2].strip() if SAYS in response else ""


def reference_of(row: Row, answers: dict[str, str]) -> str:
    """The right answer to a row's question, given those of the problems; empty where it is not known.

    Raises TaskError where a row does not say what problem it was made from.
    """
    original = row.get("original_question")
    if not isinstance(original, str):
        raise TaskError("filter 'verified' needs the field 'original_question' in every row of 'metamathqa'.")
    if ASKS in row["query"]:
        return replaced_number(row["query"], original)
    return answers.get(_squeezed(original), "")


def replaced_number(query: str, original: str) -> str:
    """The number of a problem in whose place a question has x; empty where there is none."""
    for unknown in UNKNOWN.finditer(query):
        place = unknown.start()
        if original[:place] != query[:place]:
            return ""
        if number := NUMBER.match(original, place):
            return number[1].rstrip(",")
    return ""


def equal(reference: str, given: str) -> bool:
    """Whether an answer is the reference, by math_verify where it is not so letter by letter."""
    from math_verify import verify  # here: sympy takes seconds to import, and few runs filter

    return reference == given or bool(verify(_parsed(reference), _parsed(given)))


@lru_cache(maxsize=50_000)
def _parsed(answer: str) -> Any:
    from math_verify import parse

    return parse(answer if "\\boxed" in answer else f"\\boxed{{{answer}}}")


def _answers(source: Source) -> Iterator[tuple[str, str]]:
    """The problems of GSM8K and MATH with their answers; MATH's as solutions, whose box holds it."""
    if source.has(GSM8K, "train"):
        for row in source.rows(GSM8K, "train", GSM8K_FIELDS):
            yield _squeezed(row["question"]), row["answer"].rpartition("####")[2].strip()
    if source.has(MATH, "train"):
        for row in source.rows(MATH, "train", {"problem": str, "solution": str}):
            yield _squeezed(row["problem"]), row["solution"]


def _squeezed(text: str) -> str:
    """A text without what copies differ in: the width of white space."""
    return " ".join(text.split())
