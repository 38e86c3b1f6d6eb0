"""Conversations as people write them down, OpenAI's way or ShareGPT's, as messages. What is amiss is a ValueError."""

import json
from typing import Any

from esft_bench.tasks.own.files import shown
from esft_bench.tasks.task import Message

ROLES = {
    **{"system": "system", "developer": "system"},
    **{"user": "user", "human": "user"},
    **{"assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant"},
    **{"tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool"},
}
"""What people call who speaks."""
CALLS = {"function_call", "tool_call"}
"""ShareGPT's name for an assistant that calls a tool."""


def conversation(value: Any) -> list[Message]:
    """The messages of a conversation, whichever way it is written. Raises ValueError, saying which message."""
    value = _decoded(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"its messages must be a list, found {shown(value)}")
    return [_message(each, number) for number, each in enumerate(value, start=1)]


def definitions(value: Any) -> list[dict[str, Any]]:
    """The definitions of tools. Raises ValueError."""
    value = _decoded(value)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"its tools must be a list of objects, found {shown(value)}")
    return [_without_nulls(each) for each in value]


def _decoded(value: Any) -> Any:
    """What a cell of a table holds, which may be JSON."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is no JSON ({str(error)[:60]})") from error
    return value


def _message(each: Any, number: int) -> Message:
    if not isinstance(each, dict):
        raise ValueError(f"message {number} is no object: {shown(each)}")
    said = each.get("role", each.get("from"))
    content = each.get("content", each.get("value"))
    if said in CALLS:
        return {"role": "assistant", "content": "", "tool_calls": [_call(_decoded(content), number)]}
    role = ROLES.get(str(said).lower()) if isinstance(said, str) else None
    if role is None:
        raise ValueError(f"message {number} is from {shown(said)}, who is none of {', '.join(sorted(set(ROLES)))}")
    message: Any = {"role": role, "content": _text(content, number, may_be_empty=bool(each.get("tool_calls")))}
    if calls := each.get("tool_calls"):
        if not isinstance(calls, list):
            raise ValueError(f"message {number}: its tool calls are no list")
        message["tool_calls"] = [_call(call, number) for call in calls]
    message |= {key: each[key] for key in ("tool_call_id", "name") if isinstance(each.get(key), str)}
    if isinstance(each.get("tools"), list):
        message["tools"] = definitions(each["tools"])
    checked: Message = message
    return checked


def _call(call: Any, number: int) -> dict[str, Any]:
    """A tool call, its arguments as an object, as templates want them."""
    if not isinstance(call, dict):
        raise ValueError(f"message {number}: a tool call is no object: {shown(call)}")
    made: dict[str, Any] = _without_nulls(call)
    holder = made["function"] if isinstance(made.get("function"), dict) else made
    if isinstance(holder.get("arguments"), str):
        holder["arguments"] = _decoded(holder["arguments"] or "{}")
    return made


def _text(content: Any, number: int, *, may_be_empty: bool) -> str:
    if isinstance(content, list) and all(
        isinstance(each, dict) and isinstance(each.get("text"), str) for each in content
    ):
        content = "".join(each["text"] for each in content)
    if content is None and may_be_empty:
        return ""
    if not isinstance(content, str):
        raise ValueError(f"message {number} has no text but {shown(content)}")
    return content


def _without_nulls(value: Any) -> Any:
    """A value without the nulls that a table has in place of what is not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
