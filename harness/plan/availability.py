"""A suite without the tasks whose data are not in the folder that was given, and a sentence about each of them."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Suite
from esft_bench.tasks.errors import MissingDataError, TaskError
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Task

STAND_IN = "mini-alignment"


def with_available(suite: Suite, source: Source) -> tuple[Suite, list[str]]:
    """Leave out what has no data, and say so.

    A task without training data stays for the rows that do not train; the alignment set that ships stands in for one
    that is not there. Raises UserError where nothing is left to train on. Unknown tasks stay, for the plan to refuse.
    """
    known = load_tasks()
    notes: list[str] = []
    tasks: list[str] = []
    tested_only = [name for name in suite.tested_only if _there(known.get(name), "items", source, notes)]
    for name in suite.tasks:
        task = known.get(name)
        benchmarks = (task.benchmarks if task else ()) or (name,)
        testable = [each for each in benchmarks if _there(known.get(each), "items", source, notes)]
        if not _there(task, "training", source, notes):
            notes[-1] += f" Nothing is trained on it; tested without training: {', '.join(testable) or 'nothing'}."
            tested_only += testable
        elif len(testable) == len(benchmarks):
            tasks.append(name)
    general = [name for name in suite.general if _there(known.get(name), "items", source, notes)]
    drift = [name for name in suite.drift if _there(known.get(name), "items", source, notes)]
    alignment = suite.alignment
    if alignment and not _there(known.get(alignment), "training", source, notes):
        alignment = STAND_IN
        notes[-1] += f" {STAND_IN} stands in for it."
    if not tasks:
        raise UserError(f"None of the suite's tasks has data to train on. {' '.join(notes)}")
    rows = {name: row for name, row in suite.methods.items() if set(row.after) < set(tasks)}
    if lost := [name for name in suite.methods if name not in rows]:
        notes.append(f"Left out, since they go on from tasks without data: {', '.join(lost)}.")
    changes: dict[str, Any] = {"tasks": tasks, "tested_only": tested_only, "general": general, "drift": drift}
    changes |= {"alignment": alignment, "methods": rows}
    return suite.model_copy(update=changes | _quick(suite, tasks)), notes


def _quick(suite: Suite, tasks: list[str]) -> dict[str, Any]:
    if suite.quick is None:
        return {}
    left = [name for name in suite.quick.tasks if name in tasks]
    return {"quick": suite.quick.model_copy(update={"tasks": left or tasks[:1]})}


def _there(task: Task | None, part: Literal["training", "items"], source: Source, notes: list[str]) -> bool:
    """Whether the data of a task, for training or for testing, are there; a note where they are not."""
    rows: Callable[[Source], Iterable[Any]] | None = getattr(task, part, None)
    if rows is None:
        return True
    try:
        next(iter(rows(source)), None)
    except MissingDataError as error:
        notes.append(f"No data for {task.name if task else ''} ({part}): {error}")
        return False
    except TaskError:
        return True  # there, but wrong: the plan says how
    return True
