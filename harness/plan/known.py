"""The tasks that a suite may name: those that are installed, and those that it describes itself."""

from functools import lru_cache

from esft_bench.spec.own import TESTED, OwnTask
from esft_bench.spec.suite import Suite
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.own.task import identity, make, make_mixed_in
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.task import Task
from esft_bench.tasks.theirs import PREFIX
from esft_bench.tasks.theirs import make as make_theirs


def known_tasks(suite: Suite) -> dict[str, Task]:
    """Every task by its name. Raises TaskError for one that cannot be made, or is called as another is."""
    known = load_tasks()
    theirs = {name: section == "tasks" for section in TESTED for name in getattr(suite, section)}
    for name, trained in theirs.items():
        if name.startswith(PREFIX):
            known[name] = make_theirs(name.removeprefix(PREFIX), suite.include_path, trained=trained)
    for name, own in suite.own.items():
        if name in known:
            raise TaskError(f"Task '{name}' is called as one that is installed is: give it another name.")
        known[name] = made(own, mixed_in=name == suite.own_alignment)
    return known


def made(own: OwnTask, *, mixed_in: bool = False) -> Task:
    """A task without code, or data that are mixed in; the rows of the same files are read once."""
    return _made(own.model_dump_json(), identity(own), mixed_in)


@lru_cache(16)
def _made(described: str, _identity: str, mixed_in: bool) -> Task:
    return (make_mixed_in if mixed_in else make)(OwnTask.model_validate_json(described))
