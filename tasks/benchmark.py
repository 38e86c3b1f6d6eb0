"""What the benchmarks share: few-shot prompts as lm-eval builds them, multiple-choice items, rows with their places."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Fields, Row, Source
from esft_bench.tasks.task import Item

Shot = tuple[str, str]
"""A solved example: what is asked, and the answer."""


def few_shot(shots: Iterable[Shot], question: str, description: str = "") -> str:
    """A description, solved examples and a question: lm-eval's context with its delimiters."""
    return description + "".join(f"{asked} {answer}\n\n" for asked, answer in shots) + question


def choice(name: str, prompt: str, choices: Sequence[str], gold: int) -> Item:
    """A multiple-choice item."""
    return {"id": name, "prompt": prompt, "answer": choices[gold], "choices": list(choices), "gold": gold}


def lettered(question: str, choices: Sequence[str]) -> str:
    """A question and its options as `A. first`, `B. second` and so on, each on a line."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in zip("ABCDE", choices, strict=False))])


def numbered(
    source: Source, dataset: Dataset, split: str, required: Fields, most: int | None = None
) -> Iterator[tuple[str, Row]]:
    """Yield (where it stands, row), for the errors a task finds itself; `most` as in `Source.rows`."""
    for number, row in enumerate(source.rows(dataset, split, required, most), start=1):
        yield f"{dataset.folder}, split {split!r}, row {number}", row


def position(label: object, labels: Sequence[str], place: str) -> int:
    """Where a label stands among the labels. Raises TaskError where it does not, as in splits without answers."""
    known = list(labels)  # in a string, "" would be found anywhere
    if label not in known:
        raise TaskError(f"{place}: the answer {label!r} is none of {', '.join(known)}; take a split that has answers.")
    return known.index(str(label))


def in_turn(groups: Iterable[Sequence[Item]]) -> Iterator[Item]:
    """Yield the first item of each group, then the second ones, …: a limit then keeps something of every group."""
    for items in zip_longest(*groups):
        yield from (item for item in items if item is not None)
