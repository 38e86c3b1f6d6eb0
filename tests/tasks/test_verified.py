"""The filter of MetaMathQA: a solution passes where its answer is that of the problem it was made from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.metamathqa import training
from esft_bench.tasks.metamathqa.verified import answer_of, equal, replaced_number, verified
from esft_bench.tasks.sieve import Sieve
from esft_bench.tasks.source import Source

HOMES = {"question": "How many homes are not white?", "answer": "It is 400 / 4 * 3.\n#### 1,300"}
ROOT = {"problem": "How far apart are  the points?", "solution": "So $\\boxed{\\frac{\\sqrt{5}}{2}}$."}


def rows_of(folder: Path, name: str, *rows: dict[str, Any]) -> None:
    (folder / name).mkdir()
    (folder / name / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    rows_of(tmp_path, "gsm8k", HOMES)
    rows_of(tmp_path, "math", ROOT)
    return Source(tmp_path)


def row(original: str, response: str, query: str = "?") -> dict[str, Any]:
    return {"original_question": original, "query": query, "response": response}


@pytest.mark.parametrize(
    ("original", "answer", "right"),
    [
        (HOMES["question"], "1300", True),
        (HOMES["question"], "1,300", True),
        (HOMES["question"], "1301", False),
        (ROOT["problem"], "\\frac{\\sqrt{5}}{2}", True),
        ("How far apart are the points?", "\\sqrt{5}/2", True),
        (ROOT["problem"], "\\sqrt{5}", False),
        ("A problem of neither set.", "1300", False),
    ],
)
def test_a_solution_passes_where_its_answer_is_the_problems(source, original, answer, right):
    assert verified(source)(row(original, f"It follows.\nThe answer is: {answer}")) is right


def test_a_solution_that_names_no_answer_does_not_pass(source):
    assert not verified(source)(row(HOMES["question"], "It is 1300."))
    assert answer_of("The answer is: 3. No.\nThe answer is: 4") == "4"


@pytest.mark.parametrize(
    ("original", "query", "number"),
    [
        ("A truck costs $75, and a car $3.", "A truck costs x, and a car $3.", "75"),
        ("A truck costs $1,075.50 now.", "A truck costs $x now.", "1,075.50"),
        ("There are 1/2 as many.", "There are x as many.", "1/2"),
        ("If $x + y = 7$, what is y?", "If $x + y = x$, what is y?", "7"),
        ("Words were changed: 5.", "The words: x.", ""),
        ("No number is gone.", "No number is gone.", ""),
    ],
)
def test_the_number_that_x_stands_for_is_the_problems(original, query, number):
    assert replaced_number(f"{query} What is the value of unknown variable x?", original) == number


def test_a_real_row_that_asks_for_a_number_passes_with_it_alone(shared_data):
    rows = [json.loads(line) for line in (shared_data / "metamathqa/train.jsonl").read_text().splitlines()]
    backward = next(each for each in rows if each["type"] == "GSM_FOBAR")
    keep = verified(Source(shared_data))
    assert keep(backward)
    assert not keep(backward | {"response": backward["response"].replace("answer is: 75", "answer is: 76")})


def test_rows_without_their_problem_are_refused(source):
    with pytest.raises(TaskError, match="needs the field 'original_question'"):
        verified(source)({"query": "1 + 1?", "response": "The answer is: 2"})


def test_what_is_left_is_counted_filter_by_filter(tmp_path, source):
    right, wrong = (row(HOMES["question"], f"The answer is: {answer}") for answer in ("1300", "1"))
    rows_of(tmp_path, "metamathqa", right, wrong, right)
    sieve = Sieve({"verified": verified(source), "none": lambda row: False})
    assert list(training(replace(source, sieve=sieve))) == []
    assert (sieve.read, sieve.passed) == (3, {"verified": 2, "none": 0})


def test_equal_numbers_in_different_words_are_equal():
    assert equal("0.5", "\\frac{1}{2}")
    assert not equal("0.5", "\\frac{1}{3}")
