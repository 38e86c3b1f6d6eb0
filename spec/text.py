"""Texts of users: what cannot be shown or stored as it is. Every border asks here."""

import unicodedata

KEPT = "\n\t"
UNSHOWN = {"Cc": "a control character", "Cs": "half of a surrogate pair", "Zl": "a line mark", "Zp": "a paragraph mark"}
"""Categories of characters that move a cursor, break a line or cannot be encoded, and what to call them."""


def flaw(text: str) -> str:
    """What a text has that no text should, such as `a control character (U+0007)`; empty where it has none.

    Line ends and tabs are no flaw.
    """
    for character in text:
        name = _unshown(character)
        if name:
            return f"{name} (U+{ord(character):04X})"
    return ""


def surrogate(text: str) -> str:
    """The first half of a surrogate pair in a text, which no file can hold; empty where there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{UNSHOWN['Cs']} (U+{ord(text[error.start]):04X})"
    return ""


def plain(text: str) -> str:
    """The text with such characters written as escapes, as in `\\u0007`: safe to print and to encode."""
    if text.isprintable():
        return text
    return "".join(f"\\u{ord(each):04x}" if _unshown(each) else each for each in text)


def sentence(text: str) -> str:
    """The text, plain and on one line."""
    return plain(" ".join(text.split()))


def _unshown(character: str) -> str:
    """What to call a character that cannot be shown; empty for any other."""
    if character in KEPT or character.isprintable():
        return ""
    return UNSHOWN.get(unicodedata.category(character), "")
