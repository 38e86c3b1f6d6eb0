"""From a row to what is trained and tested on: the messages that ask, and the answer, or answers."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esft_bench.spec.own import OwnTask
from esft_bench.spec.text import surrogate
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.own.files import shown
from esft_bench.tasks.own.forms import Form, part
from esft_bench.tasks.own.messages import conversation, definitions
from esft_bench.tasks.source import Row
from esft_bench.tasks.task import Conversation, Message

LONGEST = 1_000_000
"""Characters of a row; no model reads as many, and encoding them takes its time."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Example:
    """A row as it is used.

    Attributes:
        place: where it stands.
        asked: the messages before the answer.
        answer: the message that answers; `others` are texts that count as the same.
        choices: what the answer is one of, where the row says so.
        tests: the unit tests of an answer that is code.
    """

    place: str
    asked: Sequence[Message]
    answer: Message
    others: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    tests: str = ""

    @property
    def conversation(self) -> Conversation:
        """To train on."""
        return [*self.asked, self.answer]

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.answer["content"]

    @property
    def question(self) -> str:
        """What tells this question from others: a digest of all that was said before the answer."""
        told = json.dumps([list(self.asked), self.choices], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(told.encode("utf-8", "replace")).hexdigest()


def example(task: OwnTask, form: Form, place: str, row: Row) -> Example:
    """A row of a form as an example. Raises TaskError, naming the place."""
    try:
        made = _chat(form, place, row) if "messages" in form.columns else _asked(task, form, place, row)
        _check(made)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{place}: {error}.") from error
    return made


def _chat(form: Form, place: str, row: Row) -> Example:
    messages = conversation(part(form, row, "messages"))
    system = part(form, row, "system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    if tools := part(form, row, "tools"):
        messages[0]["tools"] = definitions(tools)
    if messages[-1]["role"] != "assistant":
        raise ValueError(f"its messages must end with the assistant's, and end with the {messages[-1]['role']}'s")
    if len(messages) == 1:
        raise ValueError("nothing stands before the answer")
    return Example(place, messages[:-1], messages[-1])


def _asked(task: OwnTask, form: Form, place: str, row: Row) -> Example:
    asked = _question(task, form, row)
    if "label" in form.columns:
        return Example(place, asked, _said(_label(part(form, row, "label"))))
    answers = _answers(part(form, row, "answer"))
    tests = part(form, row, "tests")
    code = "\n".join(tests) if isinstance(tests, list) else str(tests or "")
    choices = _choices(part(form, row, "choices"), task)
    if choices and task.metric in ("auto", "choice"):
        return Example(place, asked, _said(_chosen(answers[0], part(form, row, "answer"), choices)), (), choices)
    return Example(place, asked, _said(answers[0]), tuple(answers[1:]), (), code)


def _question(task: OwnTask, form: Form, row: Row) -> list[Message]:
    value = part(form, row, "prompt")
    if not task.prompt and isinstance(value, list):  # a prompt of messages
        return conversation(value)
    text = _filled(task.prompt, row) if task.prompt else _text(value, f"'{form.columns['prompt']}'")
    given = part(form, row, "input")
    if not task.prompt and isinstance(given, str) and given.strip():
        text = f"{text}\n\n{given}"
    system = part(form, row, "system")
    before: list[Message] = (
        [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    )
    return [*before, {"role": "user", "content": text}]


def _filled(template: str, row: Row) -> str:
    """A template with its `{column}`s filled in. Raises ValueError where a row has none of that name."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in row:
            raise ValueError(f"the prompt names '{found[1]}', which is no column; there are {', '.join(row)}")
        return _text(row[found[1]], f"'{found[1]}'")

    return re.sub(r"\{([^{}\n]+)\}", value, template)


def _answers(value: Any) -> list[str]:
    """The answers that a cell holds: one, several that are as good (SQuAD's form too), or an object as JSON."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if isinstance(value, dict):
        return [json.dumps(value, ensure_ascii=False, default=str)]
    if isinstance(value, list) and value and all(isinstance(each, dict) and "role" in each for each in value):
        return [conversation(value)[-1]["content"]]  # a completion of messages
    if isinstance(value, list):
        if not value:
            raise ValueError("it has no answer")
        return list(dict.fromkeys(_text(each, "an answer") for each in value))
    return [_text(value, "the answer")]


def _choices(value: Any, task: OwnTask) -> tuple[str, ...]:
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = json.loads(value)
    if value is None:
        return tuple(task.choices)
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"its choices must be a list of two or more, found {shown(value)}")
    return tuple(_text(each, "a choice") for each in value)


def _chosen(answer: str, value: Any, choices: Sequence[str]) -> str:
    """The choice that an answer names, by its text, its letter or its number from 0."""
    if answer in choices:
        return answer
    if isinstance(value, int) or answer.isdecimal():
        place = int(answer)
    else:
        place = LETTERS.find(answer.strip().upper()) if len(answer.strip()) == 1 else -1
    if not 0 <= place < len(choices):
        raise ValueError(f"the answer {shown(answer)} is none of its choices, nor a letter or number of one")
    return choices[place]


def _label(value: Any) -> str:
    return _text(value, "the label").strip()


def _text(value: Any, what: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} is missing (NaN)")
    if value is None:
        raise ValueError(f"{what} is missing")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text, found {shown(value)}")
    return value


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _check(made: Example) -> None:
    """Raise ValueError for what nobody can train on."""
    texts = [message["content"] for message in made.conversation]
    if sum(map(len, texts)) > LONGEST:
        raise ValueError(f"it has {sum(map(len, texts)):,} characters, more than {LONGEST:,}: split it or leave it out")
    if not made.text.strip() and not made.answer.get("tool_calls"):
        raise ValueError("its answer is empty")
    if not any(message["content"].strip() for message in made.asked):
        raise ValueError("its question is empty")
    if found := next(filter(None, map(surrogate, texts)), ""):
        raise ValueError(f"it holds {found}")
