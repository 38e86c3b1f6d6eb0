"""evol-codealpaca-v1: 111,000 programming instructions with answers; tested on HumanEval and MBPP."""

from collections.abc import Iterator

from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Conversation, Task, turn

DATASET = Dataset("theblackcat102/evol-codealpaca-v1", None, "evol_codealpaca")


def training(source: Source) -> Iterator[Conversation]:
    """Yield one instruction and its answer per conversation."""
    for row in source.rows(DATASET, "train", {"instruction": str, "output": str}):
        yield turn(row["instruction"], row["output"])


TASKS = (Task("evol-codealpaca", "Code", "ability", training=training, benchmarks=("humaneval", "mbpp")),)
