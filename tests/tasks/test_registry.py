import re
import subprocess
import sys
from pathlib import Path

import pytest

from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.registry import get, load_tasks
from esft_bench.tasks.source import Dataset
from esft_bench.tasks.task import DIVERGENCE, Task


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a distribution `toy-tasks 1.2` with a module of this text and an entry point to it."""

    def install(text: str, value: str = "toy_plugin:TASK") -> None:
        (tmp_path / "toy_plugin.py").write_text("from esft_bench.tasks.task import Task\n" + text)
        info = tmp_path / "toy_tasks-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-tasks\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[esft_bench.tasks]\ntoy = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "toy_plugin", raising=False)

    yield install
    sys.modules.pop("toy_plugin", None)


def test_every_folder_of_tasks_is_found_under_its_own_name() -> None:
    found = load_tasks()
    assert "intent-bdci" in found
    assert all(name == task.name for name, task in found.items())


def test_what_an_lm_eval_task_needs_is_there() -> None:
    known = load_tasks()
    for task in known.values():
        if task.metric != DIVERGENCE:
            assert task.items is None or (task.lm_eval is not None and task.lm_eval.is_file()), task.name
        assert (task.metric == "bypass") == (task.rubric is not None), task.name
        assert task.items is not None or task.role == "alignment" or task.benchmarks, task.name
        assert all(known[name].items is not None for name in task.benchmarks), task.name


DOCUMENT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text("utf-8")
ROWS = [line.split("|")[1:-1] for line in DOCUMENT.splitlines() if line.startswith("| `")]
"""The cells of the document's tables. A task or data set that somebody adds needs no line there."""


def test_the_document_names_tasks_that_there_are_and_what_they_are_tested_on() -> None:
    known = load_tasks()
    assert len(ROWS) >= 20
    for name, _, tested, *_ in ROWS:
        task = known[name.strip(" `")]
        assert task.training or task.items
        if task.benchmarks:
            assert set(re.findall("`([a-z0-9-]+)`", tested)) <= set(task.benchmarks), task.name


def test_the_document_names_data_folders_and_revisions_that_tasks_read() -> None:
    load_tasks()
    parts = [module for name, module in sys.modules.items() if name.startswith("esft_bench.tasks.")]
    sets = [value for part in parts for value in vars(part).values() if isinstance(value, Dataset)]
    folders, revisions = {each.folder for each in sets}, {(each.revision or "")[:7] for each in sets}
    for row in ROWS:
        assert set(re.findall("`([a-z0-9_]+)/", row[-2])) <= folders, row
        assert set(re.findall("`([0-9a-f]{7})`", row[-3])) <= revisions, row
    assert all(each.revision is None or re.fullmatch("[0-9a-f]{40}", each.revision) for each in sets)


def test_the_tasks_are_known_without_the_heavy_libraries() -> None:
    code = "import sys; from esft_bench.tasks.registry import load_tasks; load_tasks(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"lm_eval", "torch", "datasets", "transformers", "sympy", "numpy"} & set(loaded)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('TASK = Task("toy", "Toy", "ability")', "toy_plugin:TASK"),
        ('TASKS = (Task("toy", "Toy", "ability"),)', "toy_plugin:TASKS"),
        ('TASKS = [Task("toy", "Toy", "ability")]', "toy_plugin"),
    ],
)
def test_another_package_adds_a_task_by_an_entry_point(plug_in, text: str, value: str) -> None:
    plug_in(text, value)
    assert load_tasks()["toy"].title == "Toy"


def test_a_plugin_that_does_not_import_is_named(plug_in) -> None:
    plug_in("import no_such_module_anywhere")
    with pytest.raises(TaskError, match=r"'toy' of toy-tasks 1\.2 does not load \(ModuleNotFoundError"):
        load_tasks()


def test_a_plugin_that_offers_something_else_is_named(plug_in) -> None:
    plug_in("TASK = {'name': 'toy'}")
    with pytest.raises(TaskError, match=r"toy-tasks 1\.2 offers dict"):
        load_tasks()


def test_a_name_that_no_suite_could_write_is_refused(plug_in) -> None:
    plug_in('TASK = Task("My Task", "Toy", "ability")')
    with pytest.raises(TaskError, match="calls a task 'My Task'"):
        load_tasks()


def test_a_name_taken_twice_names_both_owners(plug_in) -> None:
    plug_in('TASK = Task("intent-bdci", "Mine", "ability")')
    with pytest.raises(TaskError, match=r"tasks/intent_bdci, one from entry point 'toy' of toy-tasks 1\.2"):
        load_tasks()


def test_a_mistyped_name_gets_a_suggestion() -> None:
    known = {name: Task(name, name, "ability") for name in ("mini-law", "mini-math")}
    assert get("mini-law", known) is known["mini-law"]
    with pytest.raises(TaskError, match="no task 'mini-lww'; did you mean mini-law"):
        get("mini-lww", known)


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(TaskError, match="there are: a1, b2"):
        get("zzzzz", {name: Task(name, name, "ability") for name in ("b2", "a1")})
