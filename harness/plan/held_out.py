"""Rows held out of a task's training data, as items by which its own metric scores a model while it trains."""

from collections.abc import Iterable, Iterator, Sequence, Set

from esft_bench.harness.training.held_out import held_out_rows
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Conversation, Item, Task

USUAL = {"id", "prompt", "answer"}
"""What every item has; a metric may need more than that."""


def held_out_items(
    task: Task, source: Source, conversations: Sequence[Conversation], questions: Sequence[Item], count: int
) -> Iterator[Item]:
    """Yield the `count` held-out rows of a task's conversations as items; none where its metric needs more than it has.

    `questions` are the task's own items. Raises UserError where less than half of the rows would be left.
    """
    places = sorted(held_out_rows(conversations, count, f"Task '{task.name}'"))
    if task.lm_eval is None or (not task.held_out and any(item.keys() - USUAL for item in questions[:1])):
        return
    asked = [conversations[place][0]["content"] for place in places]
    known = _known(task.held_out(source), set(asked)) if task.held_out else None
    for place, prompt in zip(places, asked, strict=True):
        item = {"prompt": prompt, "answer": conversations[place][1]["content"]} if known is None else known.get(prompt)
        if item is not None:
            yield {**item, "id": f"{task.name}-training-{place + 1}"}


def _known(items: Iterable[Item], asked: Set[str]) -> dict[str, Item]:
    """The first item of each question that is asked."""
    found: dict[str, Item] = {}
    for item in items:
        if item["prompt"] in asked:
            found.setdefault(item["prompt"], item)
    return found
