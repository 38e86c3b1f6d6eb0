"""The terminal out: whatever is printed is plain text. Markup in a title, or a sequence that moves the cursor, is not.

Styles are given as `rich.text.Text`, never inside a string.
"""

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from esft_bench.spec.text import plain, sentence


class Terminal(Console):
    """A console that takes strings, in tables too, for what they are."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """A string as rich prints it: every string, wherever it stands, comes by here."""
        return super().render_str(plain(text), **settings)

    def say(self, text: str) -> None:
        """Print a text as it is, however long."""
        self.print(text, soft_wrap=True)


def complain(text: str) -> None:
    """Print one line to standard error."""
    print(sentence(text), file=sys.stderr)
