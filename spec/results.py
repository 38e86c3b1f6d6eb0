"""The results of a run on disk: one flat line for each record, and the items behind it."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from esft_bench.spec.record import SCHEMA_VERSION, ItemScore, Record

if TYPE_CHECKING:
    import pandas as pd

JSONL, CSV, PARQUET = "results.jsonl", "results.csv", "results.parquet"
KEY = ["run", "backbone", "method", "task", "seed", "benchmark", "role", "metric"]
"""What makes a record the same measurement as another."""

LEFT_OUT = "left_out"
"""`read(folder).attrs[LEFT_OUT]`: sentences about the lines that were left out, and why."""


def write(records: Iterable[Record], folder: Path) -> None:
    """Write `results.jsonl`, `.csv` and `.parquet` into `folder`, each beside, fsynced and renamed.

    Columns are Record's, in its order; the parquet file carries their descriptions as field metadata.
    """
    kept = list(records)
    write_copies(kept, folder)
    rows = [record.model_dump(mode="json") for record in kept]
    write_text(folder / JSONL, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_copies(records: Iterable[Record], folder: Path) -> None:
    """Write `results.csv` and `results.parquet` alone, which nothing here reads again."""
    rows = [record.model_dump(mode="json") for record in records]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(Record.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / CSV, table.getvalue())
    write_bytes(folder / PARQUET, _parquet(rows))


def read(folder: Path) -> pd.DataFrame:
    """Read `results.jsonl`: one row a record, columns of Record, in the order of the file.

    Half-written lines, records of another schema version and repeated records are left out; of contradictory ones
    the last is kept. `attrs["left_out"]` says so, a sentence for each kind. A folder without results gives no rows.
    """
    path = folder / JSONL
    left_out: list[str] = []
    if not path.is_file():
        left_out.append(f"There is no {JSONL}: nothing has been evaluated yet.")
        return _frame([], left_out)
    kept: dict[tuple[object, ...], Record] = {}
    versions: Counter[str] = Counter()
    broken: list[int] = []
    repeated = contradictory = 0
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            version = raw.get("schema_version", SCHEMA_VERSION)
            if version != SCHEMA_VERSION:
                versions[str(version)] += 1
                continue
            record = Record.model_validate(raw)
        except (ValueError, AttributeError):
            broken.append(number)
            continue
        key = tuple(getattr(record, field) for field in KEY)
        before = kept.pop(key, None)
        repeated += before == record
        contradictory += before is not None and before != record
        kept[key] = record
    if broken:
        lines = ", ".join(map(str, broken[:10])) + (", …" if len(broken) > 10 else "")
        left_out.append(f"{len(broken)} unreadable line(s) of {JSONL} left out (line {lines}).")
    for version, count in sorted(versions.items()):
        left_out.append(
            f"{count} record(s) of schema version {version} left out: this report reads version {SCHEMA_VERSION}."
        )
    if repeated:
        left_out.append(f"{repeated} repeated record(s) counted once.")
    if contradictory:
        left_out.append(f"{contradictory} record(s) contradicted by a later one for the same measurement left out.")
    return _frame(list(kept.values()), left_out)


def read_items(folder: Path, record: Record) -> list[ItemScore]:
    """Read the items behind `record`, in the order of their file; of items with the same id the last.

    Unreadable lines are skipped. Without a file in the run folder (costs, a step that failed) the list is empty.
    """
    path = (folder / record.items).resolve()
    if not record.items or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return []
    items: dict[str, ItemScore] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            item = ItemScore.model_validate_json(line)
        except ValidationError:
            continue
        items[item.id] = item
    return list(items.values())


def write_text(path: Path, text: str) -> None:
    """Replace a file's text atomically, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: written beside, fsynced, renamed, and the folder's entry fsynced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    entry = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def columns() -> dict[str, str]:
    """What each column of the results means, by its name."""
    return {name: str(field.description) for name, field in Record.model_fields.items()}


def _parquet(rows: list[dict[str, object]]) -> bytes:
    """The rows as a parquet file."""
    import pyarrow
    from pyarrow import parquet

    numbers = {"schema_version": pyarrow.int64(), "seed": pyarrow.int64(), "n": pyarrow.int64()}
    numbers |= {"scored": pyarrow.int64(), "value": pyarrow.float64()}
    fields = [
        pyarrow.field(name, numbers.get(name, pyarrow.string()), metadata={"description": meaning})
        for name, meaning in columns().items()
    ]
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(fields)), buffer)
    return bytes(buffer.getvalue().to_pybytes())


def _frame(records: list[Record], left_out: list[str]) -> pd.DataFrame:
    """A frame of records, with what was left out in its attrs."""
    import pandas as pd  # here, so that a command that only writes results starts without it

    frame = pd.DataFrame([record.model_dump() for record in records], columns=list(Record.model_fields))
    frame["value"] = pd.to_numeric(frame["value"]).astype(float)
    frame.attrs[LEFT_OUT] = left_out
    return frame
