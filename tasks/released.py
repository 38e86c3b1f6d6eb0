"""The four tasks of the ESFT release (deepseek-ai/ESFT, datasets/): how their rows become conversations and items."""

from collections.abc import Iterator

from esft_bench.tasks.benchmark import numbered
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.prompt import question
from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Conversation, Item, Message

REVISION = "18d23501abc867f049f90c0dd7af17efc749c500"
ADDRESS = f"https://raw.githubusercontent.com/deepseek-ai/ESFT/{REVISION}/datasets"

BEFORE, AFTER = question("\0").split("\0")


def dataset(name: str) -> Dataset:
    """The data set of that name, `intent` for one, with the splits `train` and `eval`."""
    files = {"train": f"{ADDRESS}/train/{name}.jsonl", "eval": f"{ADDRESS}/eval/{name}.jsonl"}
    return Dataset(hub="json", revision=REVISION, folder=f"esft_{name}", hub_files=files)


def training(source: Source, data: Dataset) -> Iterator[Conversation]:
    """Yield one question and its answer per conversation, ended as released (mostly a full stop and a blank line)."""
    for place, row in numbered(source, data, "train", {"messages": list}):
        messages = row["messages"]
        if [_field(message, "role") for message in messages] != ["user", "assistant"] or not all(
            isinstance(_field(message, "content"), str) for message in messages
        ):
            raise TaskError(f"{place}: 'messages' must be a user's text and the assistant's.")
        user, assistant = messages
        yield [Message(role="user", content=user["content"]), Message(role="assistant", content=assistant["content"])]


def fewshot_items(source: Source, data: Dataset) -> Iterator[Item]:
    """Yield the evaluation items with the official prompt, which holds solved examples before the question."""
    for number, (place, row) in enumerate(numbered(source, data, "eval", {"prompt": str, "raw_answers": list}), 1):
        if not (row["prompt"].startswith(BEFORE) and row["prompt"].endswith(AFTER)):
            raise TaskError(f"{place}: 'prompt' must start with {BEFORE!r} and end with {AFTER!r}.")
        if not (row["raw_answers"] and isinstance(row["raw_answers"][0], str)):
            raise TaskError(f"{place}: 'raw_answers' must hold the reference as a string.")
        prompt = row["prompt"].removeprefix(BEFORE).removesuffix(AFTER)
        yield {"id": str(row.get("idx", number)), "prompt": prompt, "answer": row["raw_answers"][0]}


def items(source: Source, data: Dataset, start: str) -> Iterator[Item]:
    """Yield the evaluation items with the last question alone; each question of the prompt starts with `start`."""
    for item in fewshot_items(source, data):
        yield {**item, "prompt": start + item["prompt"].rpartition(start)[2]}


def _field(message: object, name: str) -> object:
    return message.get(name) if isinstance(message, dict) else None
