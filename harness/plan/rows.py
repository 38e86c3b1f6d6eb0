"""Rows of tasks, of this package and of others, checked when they are read: what they are, before anyone uses them.

A conversation ends with the assistant, and the prompt format has a place for all that is in it. Items have an id of
their own, texts where texts are wanted, and one schema; whatever else they hold is JSON. A row may know where it stands
(`Located`), and a task may yield an error in place of a row that it cannot use.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from esft_bench.tasks.prompt import MARKS
from esft_bench.tasks.prompt import refusal as release_refusal
from esft_bench.tasks.task import Conversation, Item, Message

Refusal = Callable[[Sequence[Message]], str]
"""Why a prompt format cannot take a conversation, or the beginning of one; empty where it can."""
LARGEST_INTEGER = 2**63
"""What a column of whole numbers holds."""


def _encodable(text: str) -> str:
    if found := surrogate(text):
        raise PydanticCustomError("surrogate", "it holds {found}", {"found": found})
    if marks := set(text) & set(MARKS):
        what = {"found": f"U+{ord(min(marks)):04X}"}
        raise PydanticCustomError("mark", "it holds {found}, which is no character", what)
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)
    role: Literal["system", "user", "assistant", "tool"]
    content: Text
    tool_calls: list[dict[str, JsonValue]] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None
    tools: list[dict[str, JsonValue]] | None = None


class _Item(BaseModel):
    """What every item has; `__pydantic_extra__` is what else it may hold."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]
    id: Text = Field(min_length=1)
    prompt: Text
    answer: Text
    choices: list[Text] | None = Field(None, min_length=1)
    gold: int | None = Field(None, ge=0)
    messages: list[_Message] | None = Field(None, min_length=1)

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


def conversations(
    rows: Iterable[Any], refusal: Refusal = release_refusal, left_out: list[str] | None = None
) -> Iterator[Conversation]:
    """The training conversations. Raises TaskError, naming row and field.

    `refusal` says why the prompt format cannot take one. With `left_out` a row that is not sound is left out, and the
    sentence on it goes there.
    """
    for number, row in enumerate(rows, start=1):
        try:
            yield _conversation(row, getattr(row, "place", "") or f"training row {number}", refusal)
        except TaskError as error:
            if left_out is None:
                raise
            left_out.append(str(error))


def _conversation(row: Any, place: str, refusal: Refusal) -> Conversation:
    if isinstance(row, TaskError):
        raise row
    messages = [message.model_dump(exclude_none=True) for message in _checked(CONVERSATION, row, place)]
    if messages[-1]["role"] != "assistant":
        last = messages[-1]["role"]
        raise TaskError(f"{place}: its messages must end with the assistant's, and end with the {last}'s.")
    if said := refusal(messages):
        raise TaskError(f"{place}: {said}.")
    return messages


def items(rows: Iterable[Any], refusal: Refusal = release_refusal, left_out: list[str] | None = None) -> Iterator[Item]:
    """The evaluation items. Raises TaskError, naming row and field; `refusal` and `left_out` as for conversations."""
    seen = _Seen()
    for number, row in enumerate(rows, start=1):
        place = f"evaluation row {number}"
        try:
            item = _item(row, place, refusal)
        except TaskError as error:
            if left_out is None:
                raise
            left_out.append(str(error))
            continue
        seen.check(item, number, place)
        yield item


def _item(row: Any, place: str, refusal: Refusal) -> Item:
    if isinstance(row, TaskError):
        raise row
    messages = _checked(ITEM, row, place).messages
    if messages and (said := refusal([message.model_dump(exclude_none=True) for message in messages])):
        raise TaskError(f"{place}: {said}.")
    return dict(row)


class _Seen:
    """What items must have in common with those before them, and what not."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.kinds: dict[str, str] = {}
        self.fields: set[str] = set()

    def check(self, row: Item, number: int, place: str) -> None:
        """Raise TaskError where an item has another's id, other fields, or values of another kind."""
        before = self.ids.setdefault(row["id"], number)
        if before != number:
            raise TaskError(f"{place}, id: '{row['id']}' is the id of row {before} too; give each item its own.")
        self.fields = self.fields or set(row)
        if other := sorted(self.fields ^ set(row)):
            raise TaskError(
                f"{place}, {other[0]}: only some items have this field; give it to all of them, or to none."
            )
        table = {field: value for field, value in row.items() if field != "messages"}  # those become texts before
        for field, kind in _kinds(table, place):
            if self.kinds.setdefault(field, kind) != kind:
                known = self.kinds[field]
                raise TaskError(f"{place}, {field}: {kind}, and in a row before it {known}; use one of the two.")


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
