"""The rows as the ESFT repository has them, and the two tasks made of them."""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks import released
from esft_bench.tasks.intent_bdci.metric import clean
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Conversation, Item, Task

DATASET = released.dataset("intent")
START = "请分析下面这句话的意图，并转化为json格式： "
"""How each command of the official prompt is introduced."""


def training(source: Source) -> Iterator[Conversation]:
    """Yield one command and its JSON per conversation, ended by a full stop and a blank line as released."""
    return released.training(source, DATASET)


def fewshot_items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the official prompt, 16 solved commands included."""
    return released.fewshot_items(source, DATASET)


def items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the last command alone."""
    return released.items(source, DATASET, START)


def held_out(source: Source) -> Iterator[Item]:
    """Yield the training commands as items: the reference is the JSON alone."""
    for asked, answered in training(source):
        yield {"id": "", "prompt": asked["content"], "answer": clean(answered["content"])}


LM_EVAL = Path(__file__).with_name("intent_bdci.yaml")

TASKS = (
    Task("intent-bdci", "Intent", "ability", LM_EVAL, training=training, items=items, held_out=held_out),
    Task(
        "intent-bdci-fewshot",
        "Intent (16-shot)",
        "ability",
        LM_EVAL.with_name("intent_bdci_fewshot.yaml"),
        training=training,
        items=fewshot_items,
        held_out=held_out,
    ),
)
