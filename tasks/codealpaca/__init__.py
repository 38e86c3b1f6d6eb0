"""CodeAlpaca as DenseMixer's authors put it on the hub: programming instructions; tested on HumanEval and MBPP.

Rows have the fields of CodeAlpaca: an instruction, an input that may be empty, an output.
"""

from collections.abc import Iterator

from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Conversation, Task, turn

DATASET = Dataset("RoxanneWsyw/CodeAlpaca", None, "codealpaca", hub_files={"train": "train.jsonl"})


def training(source: Source) -> Iterator[Conversation]:
    """Yield one instruction, with its input if it has one, and its answer per conversation."""
    for row in source.rows(DATASET, "train", {"instruction": str, "input": str, "output": str}):
        yield turn("\n\n".join(filter(None, (row["instruction"], row["input"]))), row["output"])


TASKS = (Task("codealpaca", "Code (CodeAlpaca)", "ability", training=training, benchmarks=("humaneval", "mbpp")),)
