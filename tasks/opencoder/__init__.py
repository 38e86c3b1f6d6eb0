"""OpenCoder's educational instructions (opc-sft-stage2); tested on HumanEval and MBPP.

The filters keep rows that come with tests, whose code is valid Python and defines the function it is asked for, and the
first row of each instruction. The tests are not run: 118,000 programs are too many to run at every start.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.sieve import Keep
from esft_bench.tasks.source import Dataset, Row, Source
from esft_bench.tasks.task import Conversation, Item, Task, turn

DATASET = Dataset(
    "OpenCoder-LLM/opc-sft-stage2",
    "7d28f40d579edd7c24402d17d0c7639f991e6f8d",
    "opencoder",
    config="educational_instruct",
)
FIELDS = {"instruction": str, "output": str, "code": str, "entry_point": str, "testcase": list}


def training(source: Source) -> Iterator[Conversation]:
    """Yield one instruction and its answer per conversation."""
    for row in source.training_rows(DATASET, FIELDS):
        yield turn(row["instruction"], row["output"])


def held_out(source: Source) -> Iterator[Item]:
    """Yield the rows that have tests as items, with these."""
    for row in source.rows(DATASET, "train", FIELDS):
        if row["testcase"] and defines_its_entry(row):
            tests = "\n".join(str(line) for line in row["testcase"])
            yield {"id": "", "prompt": row["instruction"], "answer": row["output"], "tests": tests}


def has_tests(source: Source) -> Keep:
    """Rows with at least one test."""
    return lambda row: bool(row["testcase"])


def defines_entry(source: Source) -> Keep:
    """Rows whose code is valid Python and defines the entry point."""
    return defines_its_entry


def first_of_instruction(source: Source) -> Keep:
    """The first row of each instruction among those that passed the filters before this one."""
    seen: set[str] = set()

    def keep(row: Row) -> bool:
        new = row["instruction"] not in seen
        seen.add(row["instruction"])
        return new

    return keep


def defines_its_entry(row: Row) -> bool:
    """Whether the code is valid Python and defines the entry point."""
    try:
        body = ast.parse(row["code"]).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(getattr(part, "name", "") == row["entry_point"] for part in body)


TASKS = (
    Task(
        "opencoder",
        "Code (OpenCoder)",
        "ability",
        Path(__file__).with_name("opencoder.yaml"),
        "passed",
        training=training,
        filters={"has-tests": has_tests, "defines-entry": defines_entry, "first-of-instruction": first_of_instruction},
        benchmarks=("humaneval", "mbpp"),
        runs_code=True,
        held_out=held_out,
    ),
)
