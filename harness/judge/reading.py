"""What an endpoint answers, read as leniently as its meaning allows: a paid verdict is never lost to a detail."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_NUMBER = 30
"""Digits; a longer one is read as a float (infinite, if need be): Python refuses to convert 5 000."""
MOST_TOKENS = 10_000_000
"""No request or reply has more: a larger number is taken for none."""


class DuplicateKeyError(ValueError):
    """A JSON object says two things under one name."""


@dataclass(frozen=True)
class Completion:
    """A chat completion: its text, empty where it has none, and its tokens, None where they are not believable."""

    text: str
    tokens_in: int | None
    tokens_out: int | None


def loads(text: str | bytes, *, unique: bool = False) -> Any:
    """JSON of any depth and with numbers of any length; with `unique`, no name twice in an object.

    Raises ValueError (DuplicateKeyError) where it is none.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", errors="replace")
    try:
        return json.loads(text, parse_int=_integer, object_pairs_hook=_once if unique else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_completion(body: Any) -> Completion:
    """The completion in an answer's decoded body. Raises ValueError, in a few words, where it is none."""
    message = _first(body)
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    text = _text(message.get("content"))
    return Completion(text, _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _first(body: Any) -> Mapping[str, Any]:
    """The first choice's message."""
    choices = body.get("choices") if isinstance(body, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(message, Mapping):
        raise ValueError("the body is no chat completion")
    return message


def _text(content: Any) -> str:
    """A message's content: a text, its parts, or an object that a server has parsed already; no lone surrogates."""
    if isinstance(content, list):
        text = "".join(_text(part) for part in content if isinstance(part, str | Mapping))
    elif isinstance(content, Mapping):
        text = content["text"] if isinstance(content.get("text"), str) else _unparsed(content)
    else:
        text = content if isinstance(content, str) else ""
    return text.encode(errors="replace").decode()


def _unparsed(content: Mapping[str, Any]) -> str:
    """The text of an object that is not a part of a message (parts have a type)."""
    return "" if "type" in content else json.dumps(content, ensure_ascii=False)


def _count(value: Any) -> int | None:
    """A number of tokens; None where it is missing, negative or absurd."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(value) if 0 <= value <= MOST_TOKENS else None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_NUMBER else float(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DuplicateKeyError("an object names something twice")
    return found
