"""The rows as the ESFT repository has them, and the two tasks made of them."""

from collections.abc import Iterator
from pathlib import Path

from tasks.errors import TaskError
from tasks.prompt import question
from tasks.source import Dataset, Source
from tasks.task import Conversation, Item, Message, Task

REVISION = "18d23501abc867f049f90c0dd7af17efc749c500"
ADDRESS = f"https://raw.githubusercontent.com/deepseek-ai/ESFT/{REVISION}/datasets"
DATASET = Dataset(
    hub="json",
    revision=REVISION,
    folder="esft_intent",
    hub_files={"train": f"{ADDRESS}/train/intent.jsonl", "eval": f"{ADDRESS}/eval/intent.jsonl"},
)

BEFORE, AFTER = question("\0").split("\0")
SHOT_END = "。\n\n"
"""What ends each solved example of the official prompt; the command to solve follows the last one."""


def training(source: Source) -> Iterator[Conversation]:
    """Yield one command and its JSON per conversation, ended by a full stop and a blank line as released."""
    for number, row in enumerate(source.rows(DATASET, "train", {"messages": list}), start=1):
        messages = row["messages"]
        if [_field(message, "role") for message in messages] != ["user", "assistant"] or not all(
            isinstance(_field(message, "content"), str) for message in messages
        ):
            raise TaskError(
                f"{DATASET.folder}, split 'train', row {number}: 'messages' must be a user's text and the assistant's."
            )
        user, assistant = messages
        yield [Message(role="user", content=user["content"]), Message(role="assistant", content=assistant["content"])]


def fewshot_items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the official prompt, 16 solved commands included."""
    for number, row in enumerate(source.rows(DATASET, "eval", {"prompt": str, "raw_answers": list}), start=1):
        place = f"{DATASET.folder}, split 'eval', row {number}"
        if not (row["prompt"].startswith(BEFORE) and row["prompt"].endswith(AFTER)):
            raise TaskError(f"{place}: 'prompt' must start with {BEFORE!r} and end with {AFTER!r}.")
        if not (row["raw_answers"] and isinstance(row["raw_answers"][0], str)):
            raise TaskError(f"{place}: 'raw_answers' must hold the reference as a string.")
        prompt = row["prompt"].removeprefix(BEFORE).removesuffix(AFTER)
        yield {"id": str(row.get("idx", number)), "prompt": prompt, "answer": row["raw_answers"][0]}


def items(source: Source) -> Iterator[Item]:
    """Yield the evaluation items with the last command alone."""
    for item in fewshot_items(source):
        yield {**item, "prompt": item["prompt"].rpartition(SHOT_END)[2]}


def _field(message: object, name: str) -> object:
    return message.get(name) if isinstance(message, dict) else None


LM_EVAL = Path(__file__).with_name("intent_bdci.yaml")

TASKS = (
    Task("intent-bdci", "Intent", "ability", LM_EVAL, training=training, items=items),
    Task(
        "intent-bdci-fewshot",
        "Intent (16-shot)",
        "ability",
        LM_EVAL.with_name("intent_bdci_fewshot.yaml"),
        training=training,
        items=fewshot_items,
    ),
)
