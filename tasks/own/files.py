"""The files that people have, as rows with their places: JSONL, JSON, CSV, TSV, Parquet, Arrow, folders, the hub.

A line that is no JSON is one bad row; a file that cannot be read at all is a TaskError.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from esft_bench.spec.own import OwnTask
from esft_bench.tasks.errors import MissingDataError, TaskError
from esft_bench.tasks.source import Row, parsed

Found = tuple[str, Row | TaskError]
"""Where a row stands, and what stands there."""
SEPARATORS = {".csv": ",;\t|", ".tsv": "\t"}
SAVED = "state.json"
"""The mark of a folder that `datasets` saved."""


def read(path: Path) -> Iterator[Found]:
    """Yield the rows of a file, or of all files in a folder. Raises TaskError."""
    if path.is_dir():
        if (path / SAVED).is_file():
            yield from _saved(path)
            return
        files = sorted(each for each in path.rglob("*") if each.suffix.lower() in READERS and each.is_file())
        if not files:
            raise TaskError(f"{path}: the folder holds none of {', '.join(READERS)} files.")
        for each in files:
            yield from read(each)
        return
    if not path.is_file():
        raise MissingDataError(f"{path}: there is no such file or folder.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise TaskError(f"{path}: no file of this kind is read; save it as one of {', '.join(READERS)}.")
    if path.stat().st_size == 0:
        raise TaskError(f"{path}: the file is empty.")
    yield from reader(path)


def _jsonl(path: Path) -> Iterator[Found]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield _row(f"{path}, line {number}", line)


def _row(place: str, line: bytes) -> Found:
    try:
        row = parsed(line, place)
    except TaskError as error:
        return place, error
    return place, row if isinstance(row, dict) else TaskError(f"{place}: a row must be a JSON object.")


def _json(path: Path) -> Iterator[Found]:
    """An array of objects, an object that holds one, or, as many files of this name are, a line each."""
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        said = parsed(text, str(path))
    except TaskError:
        first = text.split(b"\n", 1)[0]
        if first.lstrip().startswith(b"{") and isinstance(_row(str(path), first)[1], dict):
            yield from _jsonl(path)
            return
        raise
    lists = [each for each in said.values() if isinstance(each, list)] if isinstance(said, dict) else [said]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise TaskError(f"{path}: it must hold one array of objects, a row each; or save a row a line as .jsonl.")
    for number, row in enumerate(lists[0], start=1):
        place = f"{path}, row {number}"
        yield place, row if isinstance(row, dict) else TaskError(f"{place}: a row must be a JSON object.")


def _table(path: Path) -> Iterator[Found]:
    """CSV and TSV, by pandas; the separator is the one that the first line has most of."""
    import pandas  # here: slow to import

    raw = path.read_bytes()
    try:
        head = raw.decode("utf-8-sig").split("\n", 1)[0]
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TaskError(f"{path}, line {line}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8.") from error
    separator = max(SEPARATORS[path.suffix.lower()], key=head.count)
    options: Any = {"sep": separator, "dtype": str, "encoding": "utf-8-sig", "keep_default_na": False}
    try:
        names = pandas.read_csv(path, header=None, nrows=1, **options).iloc[0].tolist()
        table = pandas.read_csv(path, index_col=False, na_filter=False, **options)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, ValueError) as error:
        said = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
        raise TaskError(f"{path}: no table can be made of it ({said[:160]}).") from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise TaskError(f"{path}: two columns are called '{twice[0]}'; rename one.")
    for number, row in enumerate(table.to_dict("records"), start=1):
        yield f"{path}, row {number}", {str(name): value for name, value in row.items()}


def _parquet(path: Path) -> Iterator[Found]:
    from pyarrow import parquet

    yield from _arrow_rows(path, lambda: parquet.read_table(path))


def _arrow(path: Path) -> Iterator[Found]:
    from pyarrow import ArrowInvalid, ipc

    def table() -> Any:
        try:
            return ipc.open_stream(path).read_all()  # what `datasets` writes
        except ArrowInvalid:
            return ipc.open_file(path).read_all()

    yield from _arrow_rows(path, table)


def _arrow_rows(path: Path, table: Callable[[], Any]) -> Iterator[Found]:
    from datasets import Dataset

    try:
        rows = Dataset(table())
    except Exception as error:  # pyarrow and datasets raise a dozen kinds
        said = " ".join(str(error).split())[:160]
        raise TaskError(f"{path}: no table can be read from it ({said}).") from error
    yield from _of_dataset(str(path), rows)


def _saved(folder: Path) -> Iterator[Found]:
    """A data set that `datasets` saved to disk."""
    from datasets import load_from_disk

    try:
        rows = load_from_disk(str(folder))
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise TaskError(f"{folder}: datasets cannot load it ({said}).") from error
    yield from _of_dataset(str(folder), rows)


def _of_dataset(name: str, rows: Any) -> Iterator[Found]:
    """The rows of a data set, labels by their names."""
    labels = {column: kind for column, kind in rows.features.items() if hasattr(kind, "int2str")}
    for number, row in enumerate(rows, start=1):
        named = {
            column: kind.int2str(row[column])
            for column, kind in labels.items()
            if row[column] is not None and 0 <= row[column] < kind.num_classes
        }
        yield f"{name}, row {number}", {**row, **named}


def read_hub(task: OwnTask, split: str) -> Iterator[Found]:
    """Yield the rows of a split of a task's data set on the hub. Raises MissingDataError where it cannot be had."""
    from datasets import load_dataset

    try:
        rows = load_dataset(task.hub, task.config or None, split=split, revision=task.revision)
    except Exception as error:  # the hub client raises whatever its many layers raise
        said = (str(error).strip().splitlines() or [""])[0][:160]
        raise MissingDataError(
            f"Split '{split}' of {task.hub}@{task.revision} could not be read ({type(error).__name__}: {said}); check "
            "name, revision and connection."
        ) from error
    yield from _of_dataset(f"{task.hub}, split '{split}'", rows)


def all_of(paths: Iterable[str]) -> Iterator[Found]:
    """Yield the rows of several files or folders."""
    for path in paths:
        yield from read(Path(path).expanduser())


READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
"""How files are read, by the end of their names."""


def shown(value: object, most: int = 60) -> str:
    """A value as a sentence may quote it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else text[: most - 1] + "…"
