"""The divergence from the base model on its own answers to IFEval's prompts: general requests that nobody trains on."""

from collections.abc import Iterator

from esft_bench.tasks.ifeval import DATASET
from esft_bench.tasks.source import Fields, Source
from esft_bench.tasks.task import DIVERGENCE, Item, Task

FIELDS: Fields = {"prompt": str}


def prompts(source: Source) -> Iterator[Item]:
    """Yield the prompts; the base model's answers are drawn when they are needed."""
    for number, row in enumerate(source.rows(DATASET, "train", FIELDS)):
        yield {"id": f"own-answers-{number:05d}", "prompt": row["prompt"], "answer": ""}


TASKS = (Task("own-answers", "KL to base", "drift", metric=DIVERGENCE, items=prompts),)
