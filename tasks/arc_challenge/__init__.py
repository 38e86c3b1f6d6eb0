"""ARC-Challenge: grade-school science; 0-shot; the likeliest answer for its length wins (acc_norm), as in lm-eval."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from esft_bench.tasks.benchmark import choice, numbered, position
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Row, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset(
    "allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", "arc_challenge", config="ARC-Challenge"
)
FIELDS = {"id": str, "question": str, "choices": dict, "answerKey": str}


def gold(key: str, labels: Sequence[str], place: str) -> int:
    """Where the right answer stands. Some questions have the labels 1–4, and copies mix them with A–D."""
    if key not in labels and key.isdigit() == labels[0].isalpha():
        key = chr(ord("A") + int(key) - 1) if key.isdigit() else str(ord(key[:1] or "?") - ord("A") + 1)
    return position(key, labels, place)


def options(row: Row, place: str) -> tuple[list[str], list[str]]:
    """The answers and their labels."""
    texts, labels = row["choices"].get("text"), row["choices"].get("label")
    if not (isinstance(texts, list) and isinstance(labels, list) and len(texts) == len(labels) > 1):
        raise TaskError(f"{place}: 'choices' must hold as many 'label' as 'text'.")
    return [str(text) for text in texts], [str(label) for label in labels]


def items(source: Source) -> Iterator[Item]:
    """Yield the questions of the test split."""
    for place, row in numbered(source, DATASET, "test", FIELDS):
        texts, labels = options(row, place)
        prompt = f"Question: {row['question']}\nAnswer:"
        yield choice(row["id"], prompt, texts, gold(row["answerKey"], labels, place))


TASKS = (
    Task("arc-challenge", "ARC-C", "general", Path(__file__).with_name("arc_challenge.yaml"), "acc_norm", items=items),
)
