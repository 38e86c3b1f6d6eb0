"""Writing files into the folder of an artifact that is being built, which gets its place as a whole, synced."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def draft_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def draft_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write a JSONL file, one row a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
