"""CommonsenseQA: five options, 0-shot, the likeliest letter wins, as in lm-eval."""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.benchmark import choice, lettered, numbered, position
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset(
    "tau/commonsense_qa",
    "94630fe30dad47192a8546eb75f094926d47e155",
    "commonsenseqa",
    files={"validation": ("validation", "validation.hub")},
)
FIELDS = {"id": str, "question": str, "choices": dict, "answerKey": str}
LETTERS = "ABCDE"


def items(source: Source) -> Iterator[Item]:
    """Yield the questions of the validation split; the test split has no answers."""
    for place, row in numbered(source, DATASET, "validation", FIELDS):
        texts, labels = row["choices"].get("text"), row["choices"].get("label")
        if not (isinstance(texts, list) and labels == list(LETTERS) and len(texts) == len(LETTERS)):
            raise TaskError(f"{place}: 'choices' must hold five 'text' with the 'label' A to E.")
        prompt = lettered(f"Question: {row['question'].strip()}", texts) + "\nAnswer:"
        yield choice(row["id"], prompt, list(LETTERS), position(row["answerKey"], LETTERS, place))


TASKS = (Task("commonsenseqa", "CSQA", "general", Path(__file__).with_name("commonsenseqa.yaml"), "acc", items=items),)
