"""A task's rows as they are used: files in the store, named by their contents.

Reading and checking all rows of all tasks takes time, so what came out is noted beside them, under all it depends on:
the task's source, the part that is asked for, and the files or addresses the rows come from. Tasks of other packages
may read anything, so theirs are always read anew.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from esft_bench.harness.plan import rows
from esft_bench.harness.plan.held_out import held_out_items
from esft_bench.harness.steps.step import Content
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.keys import OURS, module_of, sources
from esft_bench.harness.store.notes import Notes
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_file, digest_of_text, made_folder, remove, write_text
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.sieve import Sieve
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Task

TASKS = f"{OURS}.tasks"
PARTS = ("training", "items", "held_out")
DATA, NOTED = "data", "data/.noted"
READ = "read"
"""How many rows there were before any filter."""


@dataclass(frozen=True)
class TaskData:
    """A task's conversations and items, where it has them, and how many items there are.

    `filtered` is how many training rows there were, and how many were left after each of the suite's filters;
    `held_out` are conversations as items that a model in training is scored on.
    """

    training: Content | None
    items: Content | None
    count: int
    filtered: Mapping[str, int] = field(default_factory=dict)
    held_out: Content | None = None

    def sentence(self, task: str) -> str:
        """What the filters did to the training rows of `task`; empty where there are none."""
        if not self.filtered:
            return ""
        left = [f"{count:,} after {name}" for name, count in self.filtered.items() if name != READ]
        return f"Training rows of {task}: {self.filtered[READ]:,} before filters, {', '.join(left)}."


def materialise(task: Task, source: Source, limit: int | None, store: Store, held_out: int | None = None) -> TaskData:
    """Write a task's rows to files in the store; files that are there stay.

    `limit` is for test items, `held_out` how many conversations become items as well. Raises TaskError for a row that
    is not sound, UserError where there is none.
    """
    folder, notes = store.root / DATA, store.notes(NOTED)
    noted = _note(task, source, limit, held_out)
    if noted is not None and (found := _noted(noted, folder, notes)) is not None:
        return found
    with _named(task):
        sieve = Sieve({name: make(source) for name, make in task.filters.items()} if task.training else {})
        sieved = replace(source, sieve=sieve)
        conversations = list(rows.conversations(task.training(sieved))) if task.training else None
        questions = list(rows.items(islice(task.items(source), limit))) if task.items else None
        held = None
        if conversations and held_out:
            held = list(rows.items(held_out_items(task, source, conversations, questions or [], held_out)))
    training, _ = _write(conversations, folder)
    items, count = _write(questions, folder)
    if task.training and training is None:
        if sieve.read:
            raise UserError(f"Task '{task.name}': none of {sieve.read} training rows passes {', '.join(sieve.tests)}.")
        raise UserError(f"Task '{task.name}': its training split is empty.")
    if task.items and items is None:
        raise UserError(f"Task '{task.name}': its evaluation split is empty.")
    filtered = {READ: sieve.read, **sieve.passed} if sieve.tests else {}
    data = TaskData(training, items, count, filtered, _write(held, folder)[0])
    if noted is not None:
        notes.write(noted, _described(task.name, data, folder))
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
    made_folder(folder)
    if path.is_symlink() or not path.is_file():
        remove(path)
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)
    return Content(path, digest), len(found)


def _path(digest: str, folder: Path) -> Path:
    return folder / f"{digest[:20]}.jsonl"


def _note(task: Task, source: Source, limit: int | None, held_out: int | None) -> str | None:
    """The name under which it is noted what a task's rows are; None where that must not be relied on."""
    parts = (task.training, task.items, task.held_out if held_out else None, *task.filters.values())
    modules = [module_of(yields) for yields in parts if yields is not None]
    if not all(name.startswith(f"{TASKS}.") for name in modules):
        return None
    told = [task.name, task.version, limit, sources((*modules, rows.__name__)), _origin(source), bool(task.training)]
    told.append(list(task.filters))
    told += [held_out, sources((held_out_items.__module__,))] if held_out else []
    return digest_of_text(canonical(told))[:20]


def _origin(source: Source) -> list[Any]:
    """What tells the files or addresses that rows are read from."""
    addresses = {name: asdict(address) for name, address in source.addresses.items()}
    return [source.limit, addresses, _files(source.data_dir.rglob("*.jsonl")) if source.data_dir else []]


def _files(paths: Iterable[Path]) -> list[list[Any]]:
    stats = sorted((str(path.resolve()), path.stat()) for path in paths)
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def _noted(name: str, folder: Path, notes: Notes) -> TaskData | None:
    """What a note says, as long as the files it names are there and what they were."""
    said = notes.read(name)
    if said is None:
        return None
    for part in PARTS:
        if said.get(part) and (what := _fault(_path(said[part][0], folder), said[part][1])):
            notes.news.append(f"Damaged: the rows of task '{said['task']}', {what}; they are read again.")
            return None
    found = {part: Content(_path(said[part][0], folder), said[part][0]) if said.get(part) else None for part in PARTS}
    return TaskData(count=said["count"], filtered=said["filtered"], **found)


def _fault(path: Path, digest: str) -> str:
    """What is wrong with a file of rows, given its digest; empty where nothing is."""
    try:
        sound = not path.is_symlink() and path.is_file() and digest_of_file(path) == digest
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return "" if sound else f"{path} is not what was written"


def _described(name: str, data: TaskData, folder: Path) -> dict[str, Any]:
    """A task's rows as they are noted: by digest of the rows and of the file they were written to."""
    parts = {part: getattr(data, part) for part in PARTS}
    files = {part: [each.digest, digest_of_file(each.path)] if each else [] for part, each in parts.items()}
    return {"task": name, "count": data.count, "filtered": dict(data.filtered), **files}
