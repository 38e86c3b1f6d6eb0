"""HellaSwag: how does a scene go on? 0-shot; the likeliest ending for its length wins (acc_norm), as in lm-eval."""

import re
from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.benchmark import choice, numbered, position
from esft_bench.tasks.source import Dataset, Fields, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset("Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76", "hellaswag")
FIELDS: Fields = {"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list, "label": (str, int)}


def cleaned(text: str) -> str:
    """The text without WikiHow's bracketed marks, as lm-eval cleans it."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def items(source: Source) -> Iterator[Item]:
    """Yield the scenes of the validation split; the test split has no labels."""
    for number, (place, row) in enumerate(numbered(source, DATASET, "validation", FIELDS)):
        prompt = cleaned(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
        labels = [str(index) for index in range(len(row["endings"]))]
        gold = position(str(row["label"]), labels, place)
        yield choice(f"hellaswag-{number:05d}", prompt, [cleaned(ending) for ending in row["endings"]], gold)


_YAML = Path(__file__).with_name("hellaswag.yaml")

TASKS = (Task("hellaswag", "HellaSwag", "general", _YAML, "acc_norm", items=items),)
