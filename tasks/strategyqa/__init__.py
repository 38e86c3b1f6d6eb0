"""StrategyQA: yes or no after several hidden steps; 0-shot, the likelier of the two words.

lm-eval has it only inside BIG-bench, as multiple choice without the dataset's own rows; the question is put as there.
"""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.benchmark import choice
from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset(
    "ChilleD/StrategyQA",
    "705562638fe1d8ca6bb98c66fc8f94d45fda8c83",
    "strategyqa",
    files={"test": ("test", "dev")},  # the original's test split has no answers; its dev split has
)
FIELDS = {"qid": str, "question": str, "answer": bool}


def items(source: Source) -> Iterator[Item]:
    """Yield the questions of the test split."""
    for row in source.rows(DATASET, "test", FIELDS):
        yield choice(row["qid"], f"Q: {row['question']}\nA:", ["yes", "no"], 0 if row["answer"] else 1)


TASKS = (Task("strategyqa", "StrategyQA", "general", Path(__file__).with_name("strategyqa.yaml"), "acc", items=items),)
