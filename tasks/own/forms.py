"""The forms that people's rows have, known by their columns, and what becomes of a row of each.

OpenAI's chat messages, ShareGPT, Alpaca, prompt and completion, question and answer, text and label. What is found is a
`Form`: which column is which part. `--columns` and a suite's `columns` say so themselves.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from esft_bench.spec.own import OwnTask
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Row

KNOWN: tuple[tuple[str, Mapping[str, tuple[str, ...]]], ...] = (
    ("chat", {"messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")}),
    ("Alpaca", {"prompt": ("instruction",), "answer": ("output", "response", "completion")}),
    ("prompt and completion", {"prompt": ("prompt",), "answer": ("completion", "response", "output", "answer")}),
    (
        "question and answer",
        {"prompt": ("question", "query"), "answer": ("answer", "answers", "response", "solution")},
    ),
    (
        "text and label",
        {
            "prompt": ("text", "sentence", "review", "content", "utterance"),
            "label": ("label", "labels", "category", "class", "intent", "sentiment", "target"),
        },
    ),
    ("input and output", {"prompt": ("input", "source"), "answer": ("output", "target", "response")}),
)
"""What a form is called, and the columns that its parts may be, the likeliest first."""
BESIDES: Mapping[str, tuple[str, ...]] = {
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
    "input": ("input", "context"),
    "choices": ("choices", "options"),
    "tests": ("tests", "test", "test_list"),
}
"""Parts that any form may have."""


@dataclass(frozen=True)
class Form:
    """What rows are: the form's name, and the column of each part."""

    name: str
    columns: Mapping[str, str]

    @property
    def shown(self) -> str:
        """As a sentence says it."""
        parts = ", ".join(f"{part} from '{column}'" for part, column in self.columns.items())
        return f"{self.name} ({parts})" if parts else self.name


def find(task: OwnTask, columns: Collection[str], where: str) -> Form:
    """The form of rows with these columns. Raises TaskError where none is known, naming the columns that there are."""
    for part, column in task.columns.items():
        if column not in columns:
            raise TaskError(f"{where}: there is no column '{column}' for {part}; there are {_listed(columns)}.")
    given: dict[str, str] = {part: column for part, column in task.columns.items()}  # noqa: C416 - other types
    if task.prompt:
        given.setdefault("prompt", "")
    if _enough(given):
        return Form("columns as given", _with_more(given, {}))
    lower = {column.lower().strip(): column for column in reversed(list(columns))}
    for name, parts in KNOWN:
        found = {part: next((lower[each] for each in names if each in lower), "") for part, names in parts.items()}
        merged = {**{part: column for part, column in found.items() if column}, **given}
        if "label" in given:
            merged.pop("answer", None)
        if _enough(merged) and all(found[part] or part in given for part in parts):
            return Form(name, _with_more(merged, lower))
    raise TaskError(
        f"{where}: no known form has the columns {_listed(columns)}; say which is which, as in --columns "
        "prompt=COLUMN,answer=COLUMN, or label=COLUMN for classes, or messages=COLUMN."
    )


def _enough(parts: Mapping[str, str]) -> bool:
    return "messages" in parts or ("prompt" in parts and ("answer" in parts or "label" in parts))


def _with_more(parts: dict[str, str], lower: Mapping[str, str]) -> dict[str, str]:
    """The parts with those that any form may have; a column is one part alone."""
    for part, names in BESIDES.items():
        column = next((lower[each] for each in names if each in lower and lower[each] not in parts.values()), "")
        if column and part not in parts and not ("messages" in parts and part not in ("system", "tools")):
            parts[part] = column
    return parts


def _listed(columns: Collection[str], most: int = 12) -> str:
    names = [f"'{column[:40]}'" for column in columns]
    return (", ".join(names[:most]) + (", …" if len(names) > most else "")) or "none"


def part(form: Form, row: Row, name: str) -> Any:
    """What a row has as a part; None where it has none."""
    return row.get(form.columns.get(name, ""))
