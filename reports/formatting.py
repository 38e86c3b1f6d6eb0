"""How numbers, lists and sentences are written: plain text, which each writer escapes in its own way."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

BRACKETS = re.compile(r"\[[^]]*\]|\([^)]*\)")
MISSING = "–"
SHORT = "†"
REFERENCE = "‡"
JUDGED = "§"
SAME = "≈"
"""Beside a difference: the rows are the same within the suite's margin."""
ONE_TRAINING = "one training each, so this is about these trainings, not about the methods"
"""What has to stand wherever single trainings are compared."""


@dataclass(frozen=True)
class Sentence:
    """Plain text; `lead` is what stands emphasised before it."""

    text: str
    lead: str = ""


def number(value: float, signed: bool = False, digits: int = 1) -> str:
    """A number with a real minus sign: `−1.9`, `+4.0` where `signed`; never `−0.0`."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def bounds(low: float, high: float, digits: int = 1) -> str:
    """An interval: `[1.4, 6.8]`."""
    return f"[{number(low, digits=digits)}, {number(high, digits=digits)}]"


def interval(value: float, low: float, high: float) -> str:
    """A difference and its interval: `+4.0 [1.4, 6.8]`."""
    return f"{number(value, signed=True)} {bounds(low, high)}"


def amount(value: float) -> str:
    """A cost, with about three significant digits and no exponent."""
    digits = 0 if abs(value) >= 1000 else min(4, max(0, 2 - math.floor(math.log10(abs(value))))) if value else 0
    return number(value, digits=digits)


def quantity(metric: str, value: float) -> str:
    """A cost record's value with its unit: `6.8 s`, `3.2 h`, `150 MB`, `42.1 GB`, `0.631 M parameters`."""
    if metric.endswith("_seconds"):
        for unit, size in (("h", 3600.0), ("min", 60.0)):
            if value >= 2 * size:
                return f"{amount(value / size)} {unit}"
        return f"{amount(value)} s"
    if metric.endswith("_bytes"):
        return f"{amount(value / 1e9)} GB" if value >= 1e10 else f"{amount(value / 1e6)} MB"
    return f"{amount(value / 1e6)} M parameters" if metric.endswith("_parameters") else amount(value)


def points(margin: float) -> str:
    """A margin in points: `2 points`, `1.5 points`."""
    return f"{margin:g} point{'' if margin == 1 else 's'}"


def listing(words: Sequence[str]) -> str:
    """`a, b and c`; where one of them has a comma itself, but for numbers in brackets, `a, 2; b; and c`."""
    if any("," in BRACKETS.sub("", word) for word in words) and len(words) > 1:
        return "; ".join(words[:-1]) + "; and " + words[-1]
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


MANY = 8
"""More rows than these are counted in a sentence; tables name them."""


def named(titles: Sequence[str]) -> str:
    """Rows by their titles, or how many there are."""
    return listing(titles) if len(titles) <= MANY else f"{len(titles)} rows"


def one_line(text: str, limit: int | None = None) -> str:
    """A text without line breaks, cut where it is longer than `limit`."""
    flat = " ".join(text.split())
    return flat if limit is None or len(flat) <= limit else flat[: limit - 1] + "…"
