"""OpenCoder's educational instructions (opc-sft-stage2), filtered; tested on HumanEval and MBPP.

Kept are the first rows of each instruction whose code is valid Python, defines the function it is asked for, and comes
with tests. The tests are not run: 118,000 programs are too many to run at every start.
"""

import ast
from collections.abc import Iterator

from esft_bench.tasks.source import Dataset, Row, Source
from esft_bench.tasks.task import Conversation, Task, turn

DATASET = Dataset(
    "OpenCoder-LLM/opc-sft-stage2",
    "7d28f40d579edd7c24402d17d0c7639f991e6f8d",
    "opencoder",
    config="educational_instruct",
)
FIELDS = {"instruction": str, "output": str, "code": str, "entry_point": str, "testcase": list}


def training(source: Source) -> Iterator[Conversation]:
    """Yield one instruction and its answer per conversation."""
    seen: set[str] = set()
    for row in source.rows(DATASET, "train", FIELDS):
        if row["instruction"] not in seen and row["testcase"] and defines_its_entry(row):
            seen.add(row["instruction"])
            yield turn(row["instruction"], row["output"])


def defines_its_entry(row: Row) -> bool:
    """Whether the code is valid Python and defines the entry point."""
    try:
        body = ast.parse(row["code"]).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(getattr(part, "name", "") == row["entry_point"] for part in body)


TASKS = (Task("opencoder", "Code (OpenCoder)", "ability", training=training, benchmarks=("humaneval", "mbpp")),)
