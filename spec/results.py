"""The results of a run on disk: one flat line for each record, and the items behind it."""

import csv
import io
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import ValidationError

from esft_bench.spec.errors import UserError
from esft_bench.spec.record import SCHEMA_VERSION, ItemScore, Record

JSONL, CSV, PARQUET = "results.jsonl", "results.csv", "results.parquet"
KEY = ["run", "backbone", "method", "task", "seed", "rate", "benchmark", "role", "metric", "repeat"]
"""What makes a record the same measurement as another."""


def write(records: Iterable[Record], folder: Path) -> None:
    """Write `results.jsonl`, `.csv` and `.parquet` into `folder`, each beside, fsynced and renamed.

    Columns are Record's, in its order; the parquet file carries their descriptions as field metadata.
    """
    kept = list(records)
    write_copies(kept, folder)
    write_lines(kept, folder)


def write_lines(records: Iterable[Record], folder: Path) -> None:
    """Write `results.jsonl` alone, in the same way, as the records come: none is kept in memory."""
    with _replacing(folder / JSONL) as file:
        for record in records:
            file.write(json.dumps(record.model_dump(mode="json"), ensure_ascii=False).encode() + b"\n")


def write_copies(records: Iterable[Record], folder: Path) -> None:
    """Write `results.csv` and `results.parquet` alone, which nothing here reads again."""
    rows = [record.model_dump(mode="json") for record in records]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(Record.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / CSV, table.getvalue())
    write_bytes(folder / PARQUET, _parquet(rows))


@dataclass(frozen=True)
class Results:
    """What `results.jsonl` holds: its records in order, and a sentence for each kind of line that was left out."""

    records: list[Record]
    left_out: list[str]


def check_run(folder: Path) -> None:
    """Raise UserError where a folder is not a run's with results; the runs that it holds are named."""
    if (folder / JSONL).is_file():
        return
    runs = ", ".join(str(found.parent) for found in sorted(folder.glob(f"*/{JSONL}"))[:5])
    raise UserError(f"{folder} holds no {JSONL}: name the folder of a run, e.g. {runs or 'runs/mini'}.")


def read(folder: Path) -> Results:
    """Read `results.jsonl`. A folder without results gives no records.

    Half-written lines, records of another schema version and repeated records are left out; of contradictory ones
    the last is kept.
    """
    path = folder / JSONL
    if not path.is_file():
        return Results([], [f"There is no {JSONL}: nothing has been evaluated yet."])
    kept: dict[tuple[object, ...], Record] = {}
    versions: Counter[str] = Counter()
    broken: list[int] = []
    repeated = contradictory = 0
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        found = _record_of(line)
        if found is None:
            broken.append(number)
        elif isinstance(found, str):
            versions[found] += 1
        else:
            key = tuple(getattr(found, field) for field in KEY)
            before = kept.pop(key, None)
            repeated += before == found
            contradictory += before is not None and before != found
            kept[key] = found
    return Results(list(kept.values()), list(_left_out(broken, versions, repeated, contradictory)))


def _record_of(line: str) -> Record | str | None:
    """The record of a line; its schema version where that is another one; None where it cannot be read."""
    try:
        raw = json.loads(line)
        version = raw.get("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            return str(version)
        record = Record.model_validate(raw)
    except (ValueError, AttributeError):
        return None
    finite = record.value is None or math.isfinite(record.value)
    return record if finite else record.model_copy(update={"value": None})


def _left_out(broken: list[int], versions: Counter[str], repeated: int, contradictory: int) -> Iterator[str]:
    """Sentences about the lines that were left out."""
    if broken:
        lines = ", ".join(map(str, broken[:10])) + (", …" if len(broken) > 10 else "")
        yield f"{len(broken)} unreadable line(s) of {JSONL} left out (line {lines})."
    for version, count in sorted(versions.items()):
        yield f"{count} record(s) of schema version {version} left out: this report reads version {SCHEMA_VERSION}."
    if repeated:
        yield f"{repeated} repeated record(s) counted once."
    if contradictory:
        yield f"{contradictory} record(s) contradicted by a later one for the same measurement left out."


def read_items(folder: Path, record: Record) -> list[ItemScore]:
    """Read the items behind `record`, in the order of their file; of items with the same id the last.

    Unreadable lines are skipped. Without a file in the run folder (costs, a step that failed) the list is empty.
    """
    path = _inside(folder, record.items)
    if path is None or not path.is_file():
        return []
    items: dict[str, ItemScore] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            item = ItemScore.model_validate_json(line)
        except ValidationError:
            continue
        items[item.id] = item
    return list(items.values())


def _inside(folder: Path, name: str) -> Path | None:
    """The path of a name below a folder; None where the name, or a link on its way, may lead out of it."""
    path = str(folder)
    for part in PurePosixPath(name).parts:
        path = f"{path}/{part}"
        if part in ("..", "/") or os.path.islink(path):  # noqa: PTH114 (asked for thousands: paths cost more)
            return None
    return Path(path) if name else None


def write_text(path: Path, text: str) -> None:
    """Replace a file's text atomically, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: written beside, fsynced, renamed, and the folder's entry fsynced."""
    with _replacing(path) as file:
        file.write(content)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes another one's place at the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
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
    numbers |= {"repeat": pyarrow.int64(), "scored": pyarrow.int64(), "value": pyarrow.float64()}
    numbers |= {"rate": pyarrow.float64()}
    fields = [
        pyarrow.field(name, numbers.get(name, pyarrow.string()), metadata={"description": meaning})
        for name, meaning in columns().items()
    ]
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(fields)), buffer)
    return bytes(buffer.getvalue().to_pybytes())
