"""Names that users give, and lists of them: the types that a suite's fields have."""

import re
from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

MOST = 2**31 - 1
"""Whole numbers go no further: what counts steps and items is stored in 32 or 64 bits."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
T = TypeVar("T")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(
            "a row's name has letters, digits, dots, hyphens and underscores, a letter or digit first, at most 64 of "
            "them; `title` may say anything"
        )
    return text


def _title(text: str) -> str:
    if "\n" in text:
        raise ValueError("a title has one line")
    return text


def _each_once(values: Sequence[T]) -> Sequence[T]:
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ValueError(f"{twice} is there twice")
    return values


RowName = Annotated[str, AfterValidator(_name)]
"""A row's name: files are named after it."""
Title = Annotated[str, Field(max_length=200), AfterValidator(_title)]
"""How tables print something."""
Count = Annotated[int, Field(gt=0, le=MOST)]
"""A whole number from 1."""
Seed = Annotated[int, Field(ge=0, le=MOST)]
"""A seed, as every library takes it."""
Once = AfterValidator(_each_once)
"""For lists in which nothing stands twice."""
Names = Annotated[list[str], Once]
"""Names of tasks, each once."""
