"""Where a task's rows come from: a data set on the hub, by name and revision, or a folder of JSONL files.

Tasks ask a `Source` for rows and never learn which of the two it was.
"""

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from esft_bench.tasks.errors import MissingDataError, TaskError
from esft_bench.tasks.sieve import Sieve

Row = dict[str, Any]

JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


Fields = Mapping[str, type | tuple[type, ...]]
"""What a row must have: the fields with their types, or with the types that are allowed."""


@dataclass(frozen=True)
class Dataset:
    """A data set under both of its names.

    Attributes:
        hub: name on the hub, e.g. `openai/gsm8k`; `json` for plain JSONL files elsewhere, whose addresses are then
            in `hub_files`.
        revision: the pinned commit on the hub; None where none is known, so that the suite must name one.
        folder: its folder under `--data-dir`; the split `test` is the file `test.jsonl` there.
        config: the hub's configuration name, if it has several.
        configs: several configurations that make one data set, read one after another.
        config_field: the field that is given the configuration's name in rows that lack it.
        hub_files: for a hub repository of plain JSONL files: the file of each split.
        files: the file names, without `.jsonl`, that a split may have under `--data-dir` where it isn't the split's.
            The first one that is there counts.
    """

    hub: str
    revision: str | None
    folder: str
    config: str | None = None
    configs: tuple[str, ...] = ()
    config_field: str = ""
    hub_files: dict[str, str] | None = None
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    """Where the user says a data set lies on the hub; what is empty stays as the task has it."""

    hub: str = ""
    revision: str = ""
    config: str = ""

    def over(self, dataset: Dataset) -> Dataset:
        """The data set at this address."""
        if self.hub:  # another repository: what the task knows about the old one does not hold there
            return Dataset(self.hub, self.revision or None, dataset.folder, self.config or None)
        return replace(dataset, revision=self.revision or dataset.revision, config=self.config or dataset.config)


@dataclass(frozen=True)
class Source:
    """Reads rows from `data_dir` if given, else from the hub.

    `limit` keeps only the first rows of each split. `addresses` says, by a data set's folder, where on the hub it lies
    if not where the task has it. `sieve` drops rows of training data that the suite's filters refuse.
    """

    data_dir: Path | None = None
    limit: int | None = None
    addresses: Mapping[str, Address] = field(default_factory=dict)
    sieve: Sieve = field(default_factory=Sieve)

    def training_rows(self, dataset: Dataset, required: Fields) -> Iterator[Row]:
        """Yield the rows of the training split that pass the filters; else as `rows`."""
        return self.sieve.kept(self.rows(dataset, "train", required))

    def rows(self, dataset: Dataset, split: str, required: Fields, most: int | None = None) -> Iterator[Row]:
        """Yield the rows of a split, each checked to have the `required` fields with their types.

        Of a split with more than `most` rows, every second, third, … is taken, so that all parts of it stay in.

        Raises TaskError naming data set, file and line where a row is malformed or a field is missing, and
        MissingDataError where there is no such split, saying how to use `--data-dir` where the hub cannot be reached.
        """
        empty = True
        for place, row in islice(self._located(dataset, split, most), self.limit):
            empty = False
            yield _checked(row, required, place)
        if empty and self.limit != 0:
            raise TaskError(f"Split {split!r} of data set {dataset.folder!r} has no rows; give it at least one.")

    def has(self, dataset: Dataset, split: str) -> bool:
        """Whether there is such a split. On the hub it is taken to be there: asking would be a download."""
        return self.data_dir is None or _file(self.data_dir, dataset, split) is not None

    def _located(self, dataset: Dataset, split: str, most: int | None) -> Iterator[tuple[str, object]]:
        if self.data_dir is not None:
            return _file_rows(self.data_dir, dataset, split, most)
        return _hub_rows(self.addresses.get(dataset.folder, Address()).over(dataset), split, most)


def _checked(row: object, required: Fields, place: str) -> Row:
    """The row, if it is an object with the required fields. Raises TaskError naming the place otherwise."""
    if not isinstance(row, dict):
        raise TaskError(f"{place}: a row must be a JSON object, found {_kind(row)}.")
    for name, wanted in required.items():
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        if name not in row:
            raise TaskError(f"{place}: field {name!r} is missing; the row has {', '.join(map(repr, row)) or 'none'}.")
        if not any(_is(row[name], kind) for kind in kinds):
            expected = " or ".join(JSON_NAMES.get(kind, kind.__name__) for kind in kinds)
            raise TaskError(f"{place}: field {name!r} must be {expected}, found {_kind(row[name])}.")
    return row


def _is(value: object, kind: type) -> bool:
    """`isinstance` as JSON sees it: true is not a number, and a whole number is one."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _kind(value: object) -> str:
    return "null" if value is None else JSON_NAMES.get(type(value), type(value).__name__)


def _step(count: int, most: int | None) -> int:
    """Every how manieth of `count` rows is taken to have no more than `most`."""
    return 1 if most is None else max(1, -(-count // most))


def _file_rows(data_dir: Path, dataset: Dataset, split: str, most: int | None) -> Iterator[tuple[str, object]]:
    """Yield (`path, line n`, parsed value) of a JSONL file; blank lines are skipped."""
    path = _existing_file(data_dir, dataset, split)
    step = 1
    if most is not None:
        with path.open("rb") as lines:
            step = _step(sum(1 for _ in lines), most)
    with path.open("rb") as lines:
        for number, line in islice(enumerate(lines, start=1), 0, None, step):
            place = f"{path}, line {number}"
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield place, parsed(line, place)


def parsed(line: bytes, place: str) -> object:
    """What a line of JSON says. Raises TaskError, naming the place, where it is none."""
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise TaskError(f"{place}: not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise TaskError(f"{place}: not valid JSON ({error.msg} at column {error.colno}).") from error
    except RecursionError as error:
        raise TaskError(f"{place}: JSON nested too deeply.") from error
    except ValueError as error:
        raise TaskError(f"{place}: a number that is too long, or is none ({str(error)[:80]}).") from error


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _file(data_dir: Path, dataset: Dataset, split: str) -> Path | None:
    """The file of a split, None if it is not there."""
    paths = [data_dir / dataset.folder / f"{name}.jsonl" for name in dataset.files.get(split, (split,))]
    return next((path for path in paths if path.is_file()), None)


def _existing_file(data_dir: Path, dataset: Dataset, split: str) -> Path:
    """The split's file. Raises MissingDataError saying what was looked for, and what is there instead."""
    found = _file(data_dir, dataset, split)
    if found is not None:
        return found
    folder = data_dir / dataset.folder
    path = " or ".join(str(folder / f"{name}.jsonl") for name in dataset.files.get(split, (split,)))
    if not data_dir.is_dir():
        raise MissingDataError(
            f"The data folder {data_dir} does not exist; --data-dir must name one that holds {path}."
        )
    if not folder.is_dir():
        raise MissingDataError(
            f"Looked for {path}, but the data folder has no folder {dataset.folder!r}; "
            f"it holds {_listing(data_dir.iterdir())}."
        )
    raise MissingDataError(
        f"Looked for {path}, the split {split!r}, but the folder holds {_listing(folder.iterdir())}."
    )


def _listing(paths: Iterable[Path], most: int = 12) -> str:
    names = sorted(path.name for path in paths)
    return (", ".join(names[:most]) + (", …" if len(names) > most else "")) or "nothing"


def _hub_rows(dataset: Dataset, split: str, most: int | None) -> Iterator[tuple[str, object]]:
    """Yield (`data set, split, row n`, row) from the hub through `datasets`, from its cache where it has one."""
    for config in dataset.configs or (dataset.config,):
        name = f"{dataset.hub}, {config}" if dataset.configs else dataset.hub
        rows = _hub_split(dataset, config, split)
        named = {dataset.config_field: config} if dataset.config_field else {}
        step = _step(len(rows), most)
        taken = rows if step == 1 else (rows[place] for place in range(0, len(rows), step))
        for place, row in enumerate(taken):
            yield f"{name}, split {split!r}, row {place * step + 1}", named | row


def _hub_split(dataset: Dataset, config: str | None, split: str) -> Sequence[Row]:
    """The rows of a split on the hub. Raises MissingDataError where it cannot be read."""
    instead = f"put the split at FOLDER/{dataset.folder}/{split}.jsonl and pass --data-dir FOLDER."
    if dataset.revision is None:
        raise MissingDataError(
            f"Data set {dataset.hub!r} has no pinned revision; name the commit in the suite, "
            f"`data: {{{dataset.folder}: {{revision: COMMIT}}}}`, or {instead}"
        )
    from datasets import load_dataset  # slow to import, and needed by few runs

    files = None if dataset.hub_files is None else {split: dataset.hub_files[split]}
    try:
        rows: Sequence[Row] = load_dataset(
            dataset.hub, config, split=split, revision=dataset.revision, data_files=files
        )
    except Exception as error:  # the hub client raises whatever its many layers raise
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise MissingDataError(
            f"Split {split!r} of {dataset.hub!r} could not be read from the hub ({type(error).__name__}: {reason});"
            f" connect to it, or {instead}"
        ) from error
    return rows
