"""GSM8K: grade-school sums in words, 5-shot as lm-eval asks them, the examples from the training split.

`gsm8k-train` is that split to train on, each question put as it is tested.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from esft_bench.tasks.benchmark import few_shot
from esft_bench.tasks.source import Dataset, Row, Source
from esft_bench.tasks.task import Conversation, Item, Task, turn

DATASET = Dataset("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "gsm8k", config="main")
FIELDS = {"question": str, "answer": str}
SHOTS = 5  # lm-eval's default


def asked(row: Row) -> str:
    """The question as lm-eval puts it."""
    return f"Question: {row['question']}\nAnswer:"


def items(source: Source) -> Iterator[Item]:
    """Yield the test questions, each after the first five training questions with their answers."""
    shots = [(asked(row), row["answer"]) for row in islice(source.rows(DATASET, "train", FIELDS), SHOTS)]
    for number, row in enumerate(source.rows(DATASET, "test", FIELDS)):
        yield {"id": f"gsm8k-{number:04d}", "prompt": few_shot(shots, asked(row)), "answer": row["answer"]}


def training(source: Source) -> Iterator[Conversation]:
    """Yield one question of the training split and its worked answer per conversation."""
    for row in source.rows(DATASET, "train", FIELDS):
        yield turn(asked(row), row["answer"])


TASKS = (
    Task("gsm8k-train", "Math (GSM8K)", "ability", training=training, benchmarks=("gsm8k",)),
    Task(
        "gsm8k",
        "GSM8K",
        "ability",
        Path(__file__).with_name("gsm8k.yaml"),
        "exact_match,flexible-extract",
        items=items,
    ),
)
