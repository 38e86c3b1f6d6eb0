"""A task's rows as they are used: files in the store, named by their contents.

Reading and checking all rows of all tasks takes time, so what came out is noted beside them, under all it depends on:
the task's source, the part that is asked for, and the files or addresses the rows come from. Tasks of other packages
may read anything, so theirs are always read anew.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from esft_bench.harness.plan import rows
from esft_bench.harness.steps.step import Content
from esft_bench.harness.store.keys import OURS, module_of, sources
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_files, digest_of_text, write_json, write_text
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Task

TASKS = f"{OURS}.tasks"
PARTS = ("training", "items")


@dataclass(frozen=True)
class TaskData:
    """A task's conversations and items, where it has them, and how many items there are."""

    training: Content | None
    items: Content | None
    count: int


def materialise(task: Task, source: Source, limit: int | None, folder: Path) -> TaskData:
    """Write a task's rows to files in `folder`; files that are there stay. `limit` is for test items.

    Raises TaskError for a row that is not sound, UserError where there is none.
    """
    noted = _note(task, source, limit, folder)
    if noted is not None and (found := _noted(noted, folder)) is not None:
        return found
    with _named(task):
        conversations = list(rows.conversations(task.training(source))) if task.training else None
        questions = list(rows.items(islice(task.items(source), limit))) if task.items else None
    training, _ = _write(conversations, folder)
    items, count = _write(questions, folder)
    if task.training and training is None:
        raise UserError(f"Task '{task.name}': its training split is empty.")
    if task.items and items is None:
        raise UserError(f"Task '{task.name}': its evaluation split is empty.")
    data = TaskData(training, items, count)
    if noted is not None:
        _remember(noted, task.name, data, folder)
    return data


@contextmanager
def _named(task: Task) -> Iterator[None]:
    """What goes wrong with a task's rows as one sentence that names the task, whatever its code raises."""
    try:
        yield
    except TaskError as error:
        raise type(error)(f"Task '{task.name}': {error}") from error
    except (UserError, OSError):
        raise
    except Exception as error:
        raise TaskError(
            f"Task '{task.name}': its rows cannot be read ({type(error).__name__}: {str(error)[:200]}); mend the rows, "
            "or the task."
        ) from error


def _write(found: list[Any] | None, folder: Path) -> tuple[Content | None, int]:
    """Write rows to the file named by their digest; one that is there and is not what it should be is replaced."""
    if not found:
        return None, 0
    digest = digest_of_text("\n".join(json.dumps(row, ensure_ascii=False, sort_keys=True) for row in found))
    path = _path(digest, folder)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)
    return Content(path, digest), len(found)


def _path(digest: str, folder: Path) -> Path:
    return folder / f"{digest[:20]}.jsonl"


def _note(task: Task, source: Source, limit: int | None, folder: Path) -> Path | None:
    """Where it is noted what a task's rows are; None where that must not be relied on."""
    modules = [module_of(yields) for yields in (task.training, task.items) if yields is not None]
    if not all(name.startswith(f"{TASKS}.") for name in modules):
        return None
    told = [task.name, task.version, limit, sources((*modules, rows.__name__)), _origin(source), bool(task.training)]
    return folder / ".noted" / f"{digest_of_text(canonical(told))[:20]}.json"


def _origin(source: Source) -> list[Any]:
    """What tells the files or addresses that rows are read from."""
    addresses = {name: asdict(address) for name, address in source.addresses.items()}
    return [source.limit, addresses, _files(source.data_dir.rglob("*.jsonl")) if source.data_dir else []]


def _files(paths: Iterable[Path]) -> list[list[Any]]:
    stats = sorted((str(path.resolve()), path.stat()) for path in paths)
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def _noted(note: Path, folder: Path) -> TaskData | None:
    """What a note says, as long as the files it names are there and what they were."""
    try:
        said = json.loads(note.read_text("utf-8"))
        training, items = (_sound(said[part], folder) for part in PARTS)
        return TaskData(training, items, int(said["count"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(note: Path, name: str, data: TaskData, folder: Path) -> None:
    """Note what a task's rows are, by digest of the rows and of the file they were written to."""
    parts = dict(zip(PARTS, (data.training, data.items), strict=True))
    files = {part: [each.digest, digest_of_files([each.path], folder)] if each else [] for part, each in parts.items()}
    write_json(note, {"task": name, "count": data.count, **files})


def _sound(said: list[str], folder: Path) -> Content | None:
    """The file of so many rows. Raises ValueError where it is not what was written."""
    if not said:
        return None
    digest, of_file = said
    path = _path(digest, folder)
    if digest_of_files([path], folder) != of_file:
        raise ValueError(path)
    return Content(path, digest)
