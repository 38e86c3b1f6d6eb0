"""What is installed, as a page: `python -m esft_bench.methods.catalogue > docs/methods.md`."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from esft_bench.methods.method import Method
from esft_bench.methods.registry import load_methods

INTRODUCTION = """# Methods

Made by `python -m esft_bench.methods.catalogue > docs/methods.md` from what is installed; do not edit. A row of a suite
names a method and, where they are not to be the defaults, its hyperparameters ([suites](suites.md)).

| method | what it does | hyperparameters (default) |
|---|---|---|"""
ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)


def page(methods: Mapping[str, type[Method]]) -> str:
    """The whole page: a line for each method, then what hyperparameters mean."""
    lines = [line(name, method) for name, method in sorted(methods.items())]
    return "\n".join([INTRODUCTION, *lines, "", "## Hyperparameters", "", *meanings(methods)])


def line(name: str, method: type[Method]) -> str:
    """The table's line of a method: the first sentence of its class, and its fields."""
    fields = ", ".join(f"`{key}` ({_default(field)})" for key, field in method.model_fields.items()) or "–"
    summary = " ".join(inspect.cleandoc(method.__doc__ or "").partition("\n\n")[0].split())
    return f"| `{name}` | {summary} | {fields} |".replace("||", "\\|\\|")


def meanings(methods: Mapping[str, type[Method]]) -> list[str]:
    """What each hyperparameter means, in the words of the classes that have it."""
    users: dict[tuple[str, str], list[str]] = {}
    for name, method in sorted(methods.items()):
        for key, text in attributes(method).items():
            if key in method.model_fields:
                users.setdefault((key, text), []).append(name)
    explained = Counter(key for key, _ in users)
    return [
        f"- `{key}`: {text}" if explained[key] == 1 else f"- `{key}` of {', '.join(named)}: {text}"
        for (key, text), named in sorted(users.items())
    ]


def attributes(method: type[BaseModel]) -> dict[str, str]:
    """What docstrings of a class and those it is derived from say of each field, in their section Attributes."""
    return dict(found for each in reversed(method.__mro__) for found in _explained(each.__doc__ or ""))


def _explained(docstring: str) -> Iterator[tuple[str, str]]:
    listed = inspect.cleandoc(docstring).partition("Attributes:\n")[2]
    for match in ATTRIBUTE.finditer(listed):
        yield match[1], " ".join(match[2].split())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default()
    return "none" if value in (None, (), {}) else str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(page(load_methods()))
