"""MBPP: write a Python function from one sentence and three tests, which run in the sandbox; 3-shot.

Tasks 11–510 are the test split; the examples are tasks 2, 3 and 4 of the prompt split, as in lm-eval's mbpp_instruct.
"""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.source import Dataset, Row, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset(
    "google-research-datasets/mbpp",
    "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    "mbpp",
    config="full",
    files={"test": ("test", "mbpp"), "prompt": ("prompt", "mbpp")},  # the original file has all splits
)
FIELDS = {"task_id": int, "text": str, "code": str, "test_list": list, "test_setup_code": str}
TEST = range(11, 511)
SHOTS = (2, 3, 4)
BEGUN = "```python\n"


def asked(row: Row) -> str:
    """The sentence and its tests as lm-eval puts them."""
    tests = "\n".join(row["test_list"][:3])
    return (
        f"You are an expert Python programmer, and here is your task:\n{row['text']}\n"
        f"Your code should pass these tests:\n{tests}"
    )


def items(source: Source) -> Iterator[Item]:
    """Yield the tasks of the test split, each after the three examples; `begun` is the beginning of the answer."""
    solved = [row for row in source.rows(DATASET, "prompt", FIELDS) if row["task_id"] in SHOTS]
    shots = "".join(f"{asked(row)}\n{BEGUN}{_unix(row['code'])}\n```\n\n" for row in solved)
    for row in source.rows(DATASET, "test", FIELDS):
        if row["task_id"] in TEST:
            yield {
                "id": f"mbpp-{row['task_id']}",
                "prompt": shots + asked(row),
                "begun": BEGUN,
                "answer": _unix(row["code"]),
                "tests": _unix("\n".join([row["test_setup_code"], *row["test_list"]])),
            }


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


TASKS = (Task("mbpp", "MBPP", "ability", Path(__file__).with_name("mbpp.yaml"), "passed", items=items, runs_code=True),)
