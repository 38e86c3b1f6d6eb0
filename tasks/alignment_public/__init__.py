"""A public instruction set without math and code, in place of the ESFT paper's alignment data, which are unpublished.

The default is tulu-3-sft-mixture; at most 200,000 of its conversations are read. Name another set in the suite, by its
hub name and revision, `data: {alignment: {hub: NAME, revision: COMMIT}}`, or put it at FOLDER/alignment/train.jsonl:
conversations under `messages`. What is math or code is left out of it in the same way.
"""

import re
from collections import Counter
from collections.abc import Iterator

from esft_bench.tasks.benchmark import numbered
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Conversation, Message, Task

DATASET = Dataset("allenai/tulu-3-sft-mixture", "b14afda60f1bbebe55d5d2fa1e4df5042f97f8be", "alignment")
MOST = 200_000
"""Conversations that are read at most, evenly spread."""

SOURCES = re.compile(r"math|algebra|gsm8k|code|program|python|table_?gpt|sciriff", re.IGNORECASE)
"""Parts of a mixture, by the row's `source`, that are math or code (or tables and extraction in code's form)."""

TEXT = re.compile(
    r"```|\\boxed|\\frac|\\begin\{|\$\$|</\w+>|#include|^\s*(def|class|import|function|public|SELECT)\b[^.?!]*$"
    r"|\b(python|javascript|java|c\+\+|sql|algorithm|equation|theorem|calculate|arithmetic|algebra|geometry)\b",
    re.IGNORECASE | re.MULTILINE,
)
"""What marks a text as math or code. It errs towards leaving out."""


def training(source: Source) -> Iterator[Conversation]:
    """Yield the conversations that begin with the user, take turns, and are neither math nor code.

    Raises TaskError where there is none, saying why the rows were left out.
    """
    left_out: Counter[str] = Counter()
    kept = 0
    for place, row in numbered(source, DATASET, "train", {"messages": list}, MOST):
        messages = _messages(row["messages"], place)
        if not _takes_turns(messages):
            left_out["turns of " + (", ".join(message["role"] for message in messages[:6]) or "nobody")] += 1
        elif is_math_or_code(messages, str(row.get("source", ""))):
            left_out["math or code"] += 1
        else:
            kept += 1
            yield messages
    if not kept and left_out:
        why = ", ".join(f"{count} for {what}" for what, count in left_out.most_common(3))
        raise TaskError(
            f"all rows of {DATASET.folder!r} were left out ({why}); only conversations of user and assistant in turn, "
            "without math and code, are trained on."
        )


def is_math_or_code(messages: Conversation, source: str) -> bool:
    """Whether the part it comes from, or any of its texts, is marked as math or code."""
    return bool(SOURCES.search(source)) or any(TEXT.search(message["content"]) for message in messages)


def _messages(messages: list[object], place: str) -> Conversation:
    conversation: Conversation = []
    for message in messages:
        if not (isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))):
            raise TaskError(f"{place}: 'messages' must be a list of objects with 'role' and 'content'.")
        conversation.append(Message(role=message["role"], content=message["content"]))
    return conversation


def _takes_turns(messages: Conversation) -> bool:
    """Whether user and assistant take turns, user first and assistant last; system messages are not trained on."""
    return bool(messages) and [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)


TASKS = (
    Task(
        "alignment-public",
        "Alignment: public instructions without math and code",
        "alignment",
        training=training,
        note="The alignment data are public instructions without math and code (tulu-3-sft-mixture, or what the suite "
        "or the data folder has in its place), not the ESFT paper's, which are unpublished.",
    ),
)
