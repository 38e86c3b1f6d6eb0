"""Where a task's rows come from: a data set on the hub, by name and revision, or a folder of JSONL files.

Tasks ask a `Source` for rows and never learn which of the two it was.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import TaskError

Row = dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """A data set under both of its names.

    Attributes:
        hub: name on the hub, e.g. `openai/gsm8k`.
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
        ...
        raise NotImplementedError
        yield json.loads("{}") or TaskError
