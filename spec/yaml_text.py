"""YAML in: what users write, checked before anyone reads it; whatever is wrong is one sentence with its line.

Beyond YAML's own rules: no key twice, no value that holds itself or grows without end through its aliases, nothing
nested without end, no numbers that are none, no characters that cannot be shown.
"""

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from esft_bench.spec.errors import UserError
from esft_bench.spec.text import flaw

LARGEST = 1_000_000
"""Bytes of a file."""
MOST_VALUES, DEEPEST, LONGEST_NUMBER = 100_000, 40, 40
"""Values with all aliases written out, levels of nesting, and characters of a number."""


def read(path: Path) -> str:
    """A file's text. Raises UserError where it is too large or not UTF-8."""
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST:,} bytes, so it is no suite.")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8.") from error


def parse(text: str, where: str) -> Any:
    """What a YAML text says. Raises UserError, with `where` it stands and the line."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{where}, line {line}: this is not YAML ({error.problem}).") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{where}, line {line}: {flaw(text[error.position])} cannot stand in YAML.") from error


def compose(text: str) -> yaml.Node | None:
    """The nodes of a text that `parse` has read, with their places."""
    return _Loader(text).get_single_node()


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses what is listed above."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[yaml.Node, int | None] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, no deeper than allowed."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise ComposerError(None, None, f"nested deeper than {DEEPEST} levels", self.get_mark())
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """The one document's node, checked."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            self._size(node)
        return node

    def _size(self, node: yaml.Node) -> int:
        """How many values a checked node stands for, with all aliases written out."""
        if node in self._sizes:
            known = self._sizes[node]
            if known is None:
                raise _refused("an alias stands inside what it names", node)
            return known
        self._sizes[node] = None
        size = 1 + sum(self._size(child) for child in self._children(node))
        if size > MOST_VALUES:
            raise _refused(f"its aliases make more than {MOST_VALUES:,} values of it", node)
        self._sizes[node] = size
        return size

    def _children(self, node: yaml.Node) -> list[yaml.Node]:
        """What a node holds; its keys, or its value, are checked."""
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            return [value for _, value in node.value]
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self._value(node)
        return []

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be a text", key)
            value = "" if key.value == "<<" else self._value(key)
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise _refused(f"the key {key.value} is read as {value}: put it in quotes", key)
            if key.value in seen:
                raise _refused(f"the key '{key.value}' is there twice", key)
            seen.add(key.value)

    def _value(self, node: yaml.Node) -> Hashable:
        """The value of a scalar. Raises ConstructorError where it is none that JSON has too."""
        if found := flaw(node.value):
            raise _refused(f"{found} in a text", node)
        number = node.tag.endswith((":int", ":float"))
        if number and len(node.value) > LONGEST_NUMBER:
            raise _refused(f"a number of {len(node.value)} characters", node)
        try:
            value = self.construct_object(node)
        except ValueError as error:
            raise _refused(f"'{node.value[:60]}' is no such value", node) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise _refused(f"{node.value} is no number to count with", node)
        if not isinstance(value, str | int | float | None):
            raise _refused(f"'{node.value[:60]}' is read as a {type(value).__name__}: put it in quotes", node)
        return value


def _refused(problem: str, node: yaml.Node) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)
