"""Fixtures shared by the tests of tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write_split(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as `FOLDER/toy/test.jsonl` and return FOLDER, to be used as `--data-dir`."""

    def write(*rows: Any, raw: bytes | None = None) -> Path:
        (tmp_path / "toy").mkdir(exist_ok=True)
        content = raw if raw is not None else "".join(json.dumps(row) + "\n" for row in rows).encode()
        (tmp_path / "toy" / "test.jsonl").write_bytes(content)
        return tmp_path

    return write
