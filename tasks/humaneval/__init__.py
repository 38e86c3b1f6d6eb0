"""HumanEval: complete a Python function; 0-shot, right if it passes the unit tests, which run in the sandbox.

The prompt is that of lm-eval's humaneval_instruct: the answer is begun with the function's head, and the model goes on.
"""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset("openai/openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544", "humaneval")
FIELDS = {"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str, "test": str}


def items(source: Source) -> Iterator[Item]:
    """Yield the functions to complete; `begun` is the beginning of the answer, `head` its code."""
    for row in source.rows(DATASET, "test", FIELDS):
        head = row["prompt"]
        yield {
            "id": row["task_id"],
            "prompt": "Write a solution to the following problem and make sure that it passes the tests:\n"
            f"```python\n{head}\n```\n",
            "begun": f"Here is the completed function:\n```python\n{head}\n",
            "head": head,
            "answer": row["canonical_solution"],
            "tests": f"{row['test']}\ncheck({row['entry_point']})",
        }


TASKS = (
    Task(
        "humaneval",
        "HumanEval",
        "ability",
        Path(__file__).with_name("humaneval.yaml"),
        "passed",
        items=items,
        runs_code=True,
    ),
)
