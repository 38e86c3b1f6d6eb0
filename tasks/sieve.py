"""What drops rows of training data by tests with names, and counts what passed each."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Keep = Callable[[dict[str, Any]], bool]
"""Whether a row is trained on."""


class Sieve:
    """Tests that rows pass one after another.

    Attributes:
        read: rows that came.
        passed: rows that passed a test and all before it, by the test's name.
    """

    def __init__(self, tests: Mapping[str, Keep] | None = None) -> None:
        self.tests = dict(tests or {})
        self.read = 0
        self.passed = dict.fromkeys(self.tests, 0)

    def kept(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows that pass all tests."""
        for row in rows:
            self.read += 1
            if all(self._passes(name, row) for name in self.tests):
                yield row

    def _passes(self, name: str, row: dict[str, Any]) -> bool:
        passes = self.tests[name](row)
        self.passed[name] += passes
        return passes
