"""A suite without the tasks whose data are not in the folder that was given, and a sentence about each of them."""

from collections.abc import Callable, Iterable
from typing import Any

from harness.errors import UserError
from harness.suite import Suite
from tasks.errors import MissingDataError
from tasks.registry import load_tasks
from tasks.source import Source
from tasks.task import Task

STAND_IN = "mini-alignment"


def with_available(suite: Suite, source: Source) -> tuple[Suite, list[str]]:
    """Leave out what has no data: tasks, general benchmarks, the alignment set (the one that ships stands in for it).

    Raises UserError where no task is left. Unknown tasks stay, for the plan to refuse.
    """
    known = load_tasks()
    notes: list[str] = []

    def there(name: str) -> bool:
        missing = _missing(known[name], known, source) if name in known else ""
        if missing:
            notes.append(f"Left out: {missing}")
        return not missing

    tasks = [name for name in suite.tasks if there(name)]
    general = [name for name in suite.general if there(name)]
    alignment = suite.alignment
    if alignment and not there(alignment):
        alignment = STAND_IN
        notes[-1] += f" {STAND_IN} stands in for it."
    if not tasks:
        raise UserError(f"None of the suite's tasks has data. {' '.join(notes)}")
    quick = suite.quick and suite.quick.model_copy(
        update={"tasks": [name for name in suite.quick.tasks if name in tasks]}
    )
    changes = {"tasks": tasks, "general": general, "alignment": alignment, "quick": quick}
    return suite.model_copy(update=changes), notes


def _missing(task: Task, known: dict[str, Task], source: Source) -> str:
    """Why a task has no data, for training or for the benchmarks that it is tested on; empty where it has."""
    needed = [task, *(known[name] for name in task.benchmarks if name in known)]
    rows = [part for each in needed for part in (each.training, each.items) if part is not None]
    return next((why for why in (_why_not(part, source) for part in rows) if why), "")


def _why_not(rows: Callable[[Source], Iterable[Any]], source: Source) -> str:
    try:
        next(iter(rows(source)), None)
    except MissingDataError as error:
        return str(error)
    return ""
