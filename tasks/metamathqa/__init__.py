"""MetaMathQA: 395,000 worked sums, rewritten from the training splits of GSM8K and MATH; tested on those two."""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.metamathqa.verified import verified
from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Conversation, Task, turn

DATASET = Dataset("meta-math/MetaMathQA", "aa4f34d3d2d3231299b5b03d9b3e5a20da45aa18", "metamathqa")


def training(source: Source) -> Iterator[Conversation]:
    """Yield one question and its worked answer per conversation."""
    for row in source.training_rows(DATASET, {"query": str, "response": str}):
        yield turn(row["query"], row["response"])


TASKS = (
    Task(
        "metamathqa",
        "Math",
        "ability",
        Path(__file__).with_name("metamathqa.yaml"),
        "math_verify",
        training=training,
        filters={"verified": verified},
        benchmarks=("gsm8k", "math"),
    ),
)
