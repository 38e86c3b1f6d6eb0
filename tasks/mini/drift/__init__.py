"""How far a model has moved from the base model, without a ceiling, on general questions that nobody trains on.

The small backbone's pretraining and all fine-tuning count the loss on answers alone, so questions are given here and
the bits are those of the answers. Both are of the benchmark half of the general kinds: alignment data know the
other one.
"""

from collections.abc import Iterable
from pathlib import Path

from esft_bench.tasks.mini.build import items
from esft_bench.tasks.mini.world.splits import general_text
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import DIVERGENCE, Item, Task


def text(_source: Source) -> Iterable[Item]:
    """Yield questions with the answers whose bits are counted."""
    return ({"id": row["id"], "prompt": row["prompt"], "answer": row["answer"]} for row in _of("text"))


def prompts(_source: Source) -> Iterable[Item]:
    """Yield questions for the base model to answer."""
    return ({"id": row["id"], "prompt": row["prompt"], "answer": ""} for row in _of("own-answers"))


def _of(name: str) -> list[Item]:
    return items(f"mini-{name}", general_text(name))


TASKS = (
    Task(
        name="mini-text",
        title="General text",
        role="drift",
        lm_eval=Path(__file__).with_name("text.yaml"),
        metric="bits_per_byte",
        items=text,
    ),
    Task("mini-own-answers", "KL to base", "drift", metric=DIVERGENCE, items=prompts),
)
