"""Rows of tasks, of this package and of others, checked when they are read: what they are, before anyone uses them.

A conversation takes turns, user first and assistant last, as the prompt format has it. Items have an id of their own,
texts where texts are wanted, and one schema; whatever else they hold is JSON.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.task import Conversation, Item

LARGEST_INTEGER = 2**63
"""What a column of whole numbers holds."""


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)
    role: Literal["user", "assistant"]
    content: str


class _Item(BaseModel):
    """What every item has; `__pydantic_extra__` is what else it may hold."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]
    id: str = Field(min_length=1)
    prompt: str
    answer: str
    choices: list[str] | None = Field(None, min_length=1)
    gold: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _gold_is_a_choice(self) -> "_Item":
        if (self.choices is None) != (self.gold is None):
            raise PydanticCustomError("choice", "'choices' and 'gold' belong together")
        if self.choices is not None and self.gold is not None and self.gold >= len(self.choices):
            raise PydanticCustomError(
                "choice",
                "'gold' is {gold}, and there are {count} choices",
                {"gold": self.gold, "count": len(self.choices)},
            )
        return self


CONVERSATION: TypeAdapter[list[_Message]] = TypeAdapter(Annotated[list[_Message], Field(min_length=1)])
ITEM: TypeAdapter[_Item] = TypeAdapter(_Item)


def conversations(rows: Iterable[Any]) -> Iterator[Conversation]:
    """The training conversations. Raises TaskError, naming row and field."""
    for number, row in enumerate(rows, start=1):
        place = f"training row {number}"
        messages = _checked(CONVERSATION, row, place)
        roles = [message.role for message in messages]
        if roles != ["user", "assistant"] * (len(roles) // 2):
            raise TaskError(
                f"{place}: its messages must take turns, user first and assistant last, and are {', '.join(roles[:8])}."
            )
        yield [{"role": message.role, "content": message.content} for message in messages]


def items(rows: Iterable[Any]) -> Iterator[Item]:
    """The evaluation items. Raises TaskError, naming row and field."""
    ids: dict[str, int] = {}
    kinds: dict[str, str] = {}
    fields: set[str] = set()
    for number, row in enumerate(rows, start=1):
        place = f"evaluation row {number}"
        _checked(ITEM, row, place)
        before = ids.setdefault(row["id"], number)
        if before != number:
            raise TaskError(f"{place}, id: '{row['id']}' is the id of row {before} too; give each item its own.")
        fields = fields or set(row)
        if other := sorted(fields ^ set(row)):
            raise TaskError(
                f"{place}, {other[0]}: only some items have this field; give it to all of them, or to none."
            )
        for field, kind in _kinds(row, place):
            if kinds.setdefault(field, kind) != kind:
                raise TaskError(f"{place}, {field}: {kind}, and in a row before it {kinds[field]}; use one of the two.")
        yield row


def _checked(kind: TypeAdapter[Any], row: Any, place: str) -> Any:
    """The row as its model. Raises TaskError."""
    try:
        return kind.validate_python(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ", ".join([place, *(".".join(str(part) for part in first["loc"]),)]).removesuffix(", ")
        said = "it holds half of a surrogate pair" if first["type"] == "string_unicode" else first["msg"]
        raise TaskError(f"{where}: {said}.") from error
    except RecursionError as error:
        raise TaskError(f"{place}: nested too deeply.") from error


def _kinds(value: Any, place: str, field: str = "") -> Iterator[tuple[str, str]]:
    """What stands in each field of a row, for the fields in objects and lists too; null fits anything."""
    if isinstance(value, dict):
        if field:
            yield field, f"an object of {', '.join(sorted(value)) or 'nothing'}"
        for name, each in value.items():
            yield from _kinds(each, place, f"{field}.{name}" if field else name)
    elif isinstance(value, list):
        yield field, "a list"
        for each in value:
            yield from _kinds(each, place, f"{field}[]")
    elif isinstance(value, bool):
        yield field, "true or false"
    elif isinstance(value, int | float):
        if not math.isfinite(value) or abs(value) >= LARGEST_INTEGER:
            raise TaskError(f"{place}, {field}: a number that no column holds.")
        yield field, "a number"
    elif isinstance(value, str):
        yield field, "a text"
