"""Rows held out of a task's training data, as items by which its own metric scores a model while it trains."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
    places = sorted(held_out_rows(len(conversations), count, f"Task '{task.name}'"))
    if task.lm_eval is None or (not task.held_out and any(item.keys() - USUAL for item in questions[:1])):
        return
    asked = {conversations[place][0]["content"]: place for place in reversed(places)}
    known = _known(task, source, asked)
    for prompt, place in sorted(asked.items(), key=lambda pair: pair[1]):
        answer = conversations[place][1]["content"]
        item = known.get(prompt, {}) if known is not None else {"prompt": prompt, "answer": answer}
        if item:
            yield {**item, "id": f"{task.name}-training-{place + 1}"}


def _known(task: Task, source: Source, asked: Mapping[str, Any]) -> dict[str, Item] | None:
    """The task's own items of some questions of its training data; None where it has no others than the rows are."""
    if task.held_out is None:
        return None
    found: dict[str, Item] = {}
    for item in task.held_out(source):
        if item["prompt"] in asked:
            found.setdefault(item["prompt"], item)
    return found
