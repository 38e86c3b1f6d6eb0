"""CLUEWSC: does a Chinese pronoun refer to a given noun? 5-shot, the likelier of 是 and 否.

The rows are CLUEWSC2020's as FewCLUE splits them: its test_public is the largest split with labels (976); the examples
come from those of its train_few_all whose sentence the test split does not have (the two share 119 sentences).
lm-eval has no such task, so the question is ours.
"""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.benchmark import choice, few_shot, numbered, position
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Row, Source
from esft_bench.tasks.task import Item, Task

REVISION = "349d34535a6520b93829bde6fdb264d82a251f48"
ADDRESS = f"https://raw.githubusercontent.com/CLUEbenchmark/FewCLUE/{REVISION}/datasets/cluewsc"
DATASET = Dataset(
    "json",
    REVISION,
    "cluewsc2020",
    hub_files={"train": f"{ADDRESS}/train_few_all.json", "test": f"{ADDRESS}/test_public.json"},
    files={"train": ("train", "train_few_all"), "test": ("test_public",)},  # test.jsonl has no labels
)
FIELDS = {"text": str, "target": dict, "label": str}
LABELS, CHOICES = ("true", "false"), ("是", "否")
SHOTS = 5


def asked(row: Row, place: str) -> str:
    """The sentence and the question about it."""
    pronoun, noun = row["target"].get("span2_text"), row["target"].get("span1_text")
    if not (isinstance(pronoun, str) and isinstance(noun, str)):
        raise TaskError(f"{place}: 'target' must hold the strings 'span1_text' and 'span2_text'.")
    return f"{row['text']}\n问题：上面的句子里，“{pronoun}”指的是“{noun}”吗？\n答案："


def items(source: Source) -> Iterator[Item]:
    """Yield the labelled sentences, each after five of the training split that the test split does not have."""
    tested = list(numbered(source, DATASET, "test", FIELDS))
    texts = {row["text"] for _, row in tested}
    solved = {row["text"]: (row, at) for at, row in numbered(source, DATASET, "train", FIELDS)}
    apart = [(row, at) for text, (row, at) in solved.items() if text not in texts][:SHOTS]
    shots = [(asked(row, at), CHOICES[position(row["label"], LABELS, at)]) for row, at in apart]
    for number, (place, row) in enumerate(tested):
        gold = position(row["label"], LABELS, place)
        yield choice(f"cluewsc-{number:04d}", few_shot(shots, asked(row, place)), CHOICES, gold)


TASKS = (Task("cluewsc", "CLUEWSC", "general", Path(__file__).with_name("cluewsc.yaml"), "acc", items=items),)
