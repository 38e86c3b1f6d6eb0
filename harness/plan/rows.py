"""Rows of tasks, of this package and of others, checked when they are read: what they are, before anyone uses them.

A conversation takes turns, user first and assistant last, as the prompt format has it. Items have an id of their own,
texts where texts are wanted, and one schema; whatever else they hold is JSON.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from esft_bench.spec.text import surrogate
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.task import Conversation, Item

LARGEST_INTEGER = 2**63
"""What a column of whole numbers holds."""


def _encodable(text: str) -> str:
    if found := surrogate(text):
        raise PydanticCustomError("surrogate", "it holds {found}", {"found": found})
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)
    role: Literal["user", "assistant"]
    content: Text


class _Item(BaseModel):
    """What every item has; `__pydantic_extra__` is what else it may hold."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]
    id: Text = Field(min_length=1)
    prompt: Text
    answer: Text
    choices: list[Text] | None = Field(None, min_length=1)
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
        where = f"{place}, {'.'.join(map(str, first['loc']))}" if first["loc"] else place
        raise TaskError(f"{where}: {first['msg']}.") from error
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
    elif value is not None:
        kind, found = _kind(value)
        if found:
            raise TaskError(f"{place}, {field}: it holds {found}.")
        yield field, kind


def _kind(value: str | bool | int | float) -> tuple[str, str]:
    """What to call a value, and what is wrong with it, if anything."""
    if isinstance(value, str):
        return "a text", surrogate(value)
    if isinstance(value, bool):
        return "true or false", ""
    return "a number", "" if abs(value) < LARGEST_INTEGER else "a number that no column has room for"
