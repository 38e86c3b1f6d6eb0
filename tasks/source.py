"""Where a task's rows come from: a data set on the hub, by name and revision, or a folder of JSONL files.

Tasks ask a `Source` for rows and never learn which of the two it was.
"""

import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.errors import TaskError

Row = dict[str, Any]

JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Dataset:
    """A data set under both of its names.

    Attributes:
        hub: name on the hub, e.g. `openai/gsm8k`; `json` for plain JSONL files elsewhere, whose addresses are then
            in `hub_files`.
        revision: the pinned commit on the hub.
        folder: its folder under `--data-dir`; the split `test` is the file `test.jsonl` there.
        config: the hub's configuration name, if it has several.
        hub_files: for a hub repository of plain JSONL files: the file of each split.
    """

    hub: str
    revision: str
    folder: str
    config: str | None = None
    hub_files: dict[str, str] | None = None


@dataclass(frozen=True)
class Source:
    """Reads rows from `data_dir` if given, else from the hub. `limit` keeps only the first rows of each split."""

    data_dir: Path | None = None
    limit: int | None = None

    def rows(self, dataset: Dataset, split: str, required: dict[str, type]) -> Iterator[Row]:
        """Yield the rows of a split, each checked to have the `required` fields with their types.

        Raises TaskError naming data set, file and line where a row is malformed or a field is missing, and saying how
        to use `--data-dir` where the hub cannot be reached.
        """
        located = _hub_rows(dataset, split) if self.data_dir is None else _file_rows(self.data_dir, dataset, split)
        empty = True
        for place, row in islice(located, self.limit):
            empty = False
            yield _checked(row, required, place)
        if empty and self.limit != 0:
            raise TaskError(f"Split {split!r} of data set {dataset.folder!r} has no rows; give it at least one.")


def _checked(row: object, required: dict[str, type], place: str) -> Row:
    """The row, if it is an object with the required fields. Raises TaskError naming the place otherwise."""
    if not isinstance(row, dict):
        raise TaskError(f"{place}: a row must be a JSON object, found {_kind(row)}.")
    for field, kind in required.items():
        if field not in row:
            raise TaskError(f"{place}: field {field!r} is missing; the row has {', '.join(map(repr, row)) or 'none'}.")
        if not _is(row[field], kind):
            wanted = JSON_NAMES.get(kind, kind.__name__)
            raise TaskError(f"{place}: field {field!r} must be {wanted}, found {_kind(row[field])}.")
    return row


def _is(value: object, kind: type) -> bool:
    """`isinstance` as JSON sees it: true is not a number, and a whole number is one."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _kind(value: object) -> str:
    return "null" if value is None else JSON_NAMES.get(type(value), type(value).__name__)


def _file_rows(data_dir: Path, dataset: Dataset, split: str) -> Iterator[tuple[str, object]]:
    """Yield (`path, line n`, parsed value) of a JSONL file; blank lines are skipped."""
    path = _existing_file(data_dir, dataset, split)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield place, _parsed(line, place)


def _parsed(line: bytes, place: str) -> object:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise TaskError(f"{place}: not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise TaskError(f"{place}: not valid JSON ({error.msg} at column {error.colno}).") from error
    except RecursionError as error:
        raise TaskError(f"{place}: JSON nested too deeply.") from error


def _existing_file(data_dir: Path, dataset: Dataset, split: str) -> Path:
    """The split's file. Raises TaskError saying what was looked for, and what is there instead."""
    folder = data_dir / dataset.folder
    path = folder / f"{split}.jsonl"
    if not data_dir.is_dir():
        raise TaskError(
            f"The data folder {data_dir} does not exist; --data-dir must name one that holds {path.name!r}"
            f" in a folder {dataset.folder!r}."
        )
    if not folder.is_dir():
        raise TaskError(
            f"Looked for {path}, but the data folder has no folder {dataset.folder!r}; "
            f"it holds {_listing(data_dir.iterdir())}."
        )
    if not path.is_file():
        raise TaskError(f"Looked for {path}, the split {split!r}, but the folder holds {_listing(folder.iterdir())}.")
    return path


def _listing(paths: Iterable[Path], most: int = 12) -> str:
    names = sorted(path.name for path in paths)
    return (", ".join(names[:most]) + (", …" if len(names) > most else "")) or "nothing"


def _hub_rows(dataset: Dataset, split: str) -> Iterator[tuple[str, object]]:
    """Yield (`data set, split, row n`, row) from the hub through `datasets`, from its cache where it has one."""
    from datasets import load_dataset  # slow to import, and needed by few runs

    files = None if dataset.hub_files is None else {split: dataset.hub_files[split]}
    try:
        rows = load_dataset(dataset.hub, dataset.config, split=split, revision=dataset.revision, data_files=files)
    except Exception as error:  # the hub client raises whatever its many layers raise
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise TaskError(
            f"Split {split!r} of {dataset.hub!r} could not be read from the hub ({type(error).__name__}: {reason});"
            f" connect to it, or put the split at FOLDER/{dataset.folder}/{split}.jsonl and pass --data-dir FOLDER."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{dataset.hub}, split {split!r}, row {number}", row
