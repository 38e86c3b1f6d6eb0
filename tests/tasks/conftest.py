"""Fixtures shared by the tests of tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets beside the repository; the test is skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("skipped, no data")
    return SHARED_DATA


@pytest.fixture
def write_split(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as `FOLDER/toy/test.jsonl` and return FOLDER, to be used as `--data-dir`."""

    def write(*rows: Any, raw: bytes | None = None) -> Path:
        (tmp_path / "toy").mkdir(exist_ok=True)
        content = raw if raw is not None else "".join(json.dumps(row) + "\n" for row in rows).encode()
        (tmp_path / "toy" / "test.jsonl").write_bytes(content)
        return tmp_path

    return write
