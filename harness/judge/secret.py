"""A key that must appear nowhere: not in what is stored, printed or reported, however a server echoes it."""

import base64
import json
import re
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST = 8
"""A shorter key ("none", "EMPTY") is no secret, and masking it would tear ordinary words."""
HEADER = re.compile(r"(?i)\b(bearer|basic)[\s\"':=]+[\w+/=.~%-]{8,}")


class Secret:
    """Replaces an API key in texts."""

    def __init__(self, key: str) -> None:
        forms = sorted(_forms(key), key=len, reverse=True) if len(key) >= SHORTEST else []
        self._pattern = re.compile("|".join(map(re.escape, forms))) if forms else None

    def mask(self, text: str) -> str:
        """The text without the key, as it is or encoded, and without any other Authorization header."""
        text = self._pattern.sub(MASK, text) if self._pattern else text
        return HEADER.sub(rf"\1 {MASK}", text)


def _forms(key: str) -> set[str]:
    """The key as it is, as JSON and URLs write it, in hexadecimal, and in base64 wherever in a text it stands."""
    raw = key.encode()
    forms = {key, json.dumps(key)[1:-1], quote(key, safe=""), quote_plus(key), raw.hex(), raw.hex().upper(), key[::-1]}
    for before in range(3):  # base64 goes by three bytes: what stands before shifts all that follows
        first = -(-8 * before // 6)
        last = 8 * (before + len(raw)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(encode(b"\0" * before + raw).decode()[first:last])
    return forms
