"""Which tasks there are: the folders of this package, and those that other packages offer.

A folder here exports `TASKS`, a tuple of `Task`. Another package names such a tuple, a single `Task`, or a module with
`TASKS`, in its entry points, group `tasks`.
"""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from esft_bench import tasks
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.task import Task

GROUP = "esft_bench.tasks"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def load_tasks() -> dict[str, Task]:
    """Every task by its name, built-in ones first.

    Raises TaskError naming the folder or the distribution where one is broken or takes a name twice.
    """
    found: dict[str, Task] = {}
    origins: dict[str, str] = {}
    for origin, task in [*_built_in(), *_plugged_in()]:
        if task.name in found:
            raise TaskError(f"Two tasks are called {task.name!r}: one from {origins[task.name]}, one from {origin}.")
        found[task.name], origins[task.name] = task, origin
    return found


def get(name: str, known: Mapping[str, Task] | None = None) -> Task:
    """The task of that name. Raises TaskError with the nearest names, or all of them, if there is none."""
    known = load_tasks() if known is None else known
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(known))}."
    raise TaskError(f"There is no task {name!r}; {hint}")


def _built_in() -> Iterator[tuple[str, Task]]:
    """Yield (folder, task) of the folders of this package."""
    for module in pkgutil.iter_modules(tasks.__path__):
        if module.ispkg:
            origin = f"tasks/{module.name}"
            exported = importlib.import_module(f"{tasks.__name__}.{module.name}")
            yield from ((origin, task) for task in _checked(exported, origin))


def _plugged_in() -> Iterator[tuple[str, Task]]:
    """Yield (distribution, task) of the entry points of other packages."""
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_distribution(entry), entry.name)):
        origin = f"entry point {entry.name!r} of {_distribution(entry)}"
        try:
            exported = entry.load()
        except Exception as error:  # a plugin may raise anything when imported
            message = f"The {origin} does not load ({type(error).__name__}: {error}); mend or uninstall it."
            raise TaskError(" ".join(message.split())) from error
        yield from ((origin, task) for task in _checked(exported, origin))


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def _checked(exported: object, origin: str) -> tuple[Task, ...]:
    """The tasks in what a folder or an entry point exports. Raises TaskError if they are none."""
    exported = getattr(exported, "TASKS", exported)
    offered = tuple(exported) if isinstance(exported, tuple | list) else (exported,)
    for task in offered:
        if not isinstance(task, Task):
            raise TaskError(f"The {origin} offers {type(task).__name__} where a Task, or a tuple of them, is expected.")
        if not NAME.fullmatch(task.name):
            raise TaskError(f"The {origin} calls a task {task.name!r}; use lower case, digits and hyphens.")
    return offered
