"""The matrix of cells, the keys of their steps, and what is already there.

Each cell goes profile → train (several times where its method has stages) → answers (one for each benchmark) →
verdicts (where a benchmark is judged).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from esft_bench.harness import backbone as backbones
from esft_bench.harness.keys import Keys, TaskData
from esft_bench.harness.stages import Stage, check, make_method, stage_of
from esft_bench.harness.store import Artifact, Store, code_version, key_of
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Method
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import digest_of_files, digest_of_text, write_jsonl
from esft_bench.spec.suite import Suite
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.registry import get as find_task
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Task

TOGETHER = "+"
"""What stands between the names of tasks that are trained together."""
State = Literal["to do", "trained", "answered", "done"]


@dataclass(frozen=True)
class Cell:
    """backbone × task × method × seed. The base model is one cell, with an empty task.

    `task` names several tasks, with `+` between, where they are trained together. `after` are the tasks that were
    trained on before, in order.
    """

    method: str
    task: str
    seed: int
    after: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """What it is trained on; nothing for the base model."""
        return self.task.split(TOGETHER) if self.task else []

    @property
    def label(self) -> str:
        """How the progress display and logs name it."""
        before = f" after {', '.join(self.after)}" if self.after else ""
        return self.method if not self.task else f"{self.method} · {self.task}{before} · seed {self.seed}"


@dataclass
class Plan:
    """Everything a run needs to know before it begins."""

    suite: Suite
    store: Store
    tasks: dict[str, Task]
    methods: dict[str, Method]
    data: dict[str, TaskData]
    backbone: Path
    keys: Keys
    engine: str
    judge: str
    chosen: dict[str, set[str]] = field(default_factory=dict)
    sources: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """Every cell of the suite, row by row."""
        return [
            Cell(row, task, seed, tuple(self.suite.methods[row].after))
            for row, method in self.methods.items()
            for seed in (self.suite.seeds if method.trains else self.suite.seeds[:1])
            for task in self._trained_on(row, method)
        ]

    def _trained_on(self, row: str, method: Method) -> list[str]:
        """The tasks of a row's cells; no task for a method that has one cell for all."""
        if not method.by_task:
            return [""]
        asked = self.suite.together(row)
        if method.together if asked is None else asked:
            return [TOGETHER.join(self.suite.tasks)]
        return [task for task in self.suite.tasks if task not in self.suite.methods[row].after]

    @property
    def chosen_cells(self) -> list[Cell]:
        """The cells that --only leaves to compute."""
        return [
            cell
            for cell in self.cells
            if cell.method in self.chosen["method"] and set(cell.tasks) <= self.chosen["task"]
        ]

    def benchmarks(self, cell: Cell) -> list[str]:
        """What a cell is tested on: its tasks, earlier ones too (the base model: all), and the general benchmarks.

        A task without items of its own names the benchmarks that stand for it.
        """
        own = [name for task in ([*cell.tasks, *cell.after] or self._all_tasks) for name in self.tested_on(task)]
        return [*dict.fromkeys([*own, *self.suite.general])]

    @property
    def _all_tasks(self) -> list[str]:
        return [*self.suite.tasks, *self.suite.tested_only]

    def tested_on(self, task: str) -> tuple[str, ...]:
        """The benchmarks of a task that is trained on: itself, or those it names."""
        return self.tasks[task].benchmarks or (task,)

    def stage(self, cell: Cell) -> Stage:
        """A cell's training, the last one where there are several."""
        row = self.suite.methods[cell.method]
        start = None
        for task in cell.after:
            start = self._stage(row.continues, [task], cell.seed, start=start)
        source = self.sources.get((cell.method, cell.task), "")
        return self._stage(cell.method, cell.tasks or self.suite.tasks[:1], cell.seed, source=source, start=start)

    def _stage(self, row: str, tasks: list[str], seed: int, *, source: str = "", start: Stage | None = None) -> Stage:
        return stage_of(self.suite, row, self.methods[row], tasks, seed, source=source, start=start)

    # Keys of the steps after training.

    def answers_key(self, cell: Cell, benchmark: str) -> str | None:
        """Key of a cell's answers to a benchmark; None while it is not trained."""
        trained = self.trained(cell)
        if trained is None:
            return None
        task = self.tasks[benchmark]
        assert task.lm_eval is not None
        folder = task.lm_eval.parent  # configurations may include one of the folder above
        files = [*folder.glob("*.py"), *folder.glob("*.yaml"), *folder.parent.glob("*.yaml")]
        settings = {
            "engine": self.engine,
            "precision": self.suite.backbone.precision,
            "max_length": self.suite.evaluation.max_length,
            "task": [task.name, task.version, task.metric, digest_of_files(files, folder.parent)],
        }
        inputs = {
            "backbone": self.keys.backbone_digest,
            "adapter": digest_of_text(" ".join(made.digest for made in self.keys.adapters(self.stage(cell)))),
            "items": self.data[benchmark].items_digest,
        }
        code = code_version("esft_bench.harness.evaluate", "esft_bench.harness.serving.lm", "esft_bench.tasks.prompt")
        return key_of("answers", settings, inputs, code)

    def verdicts_key(self, cell: Cell, benchmark: str) -> str | None:
        """Key of the judge's verdicts on a cell's answers; None while there are no answers."""
        answers = self.answers(cell, benchmark)
        rubric = self.tasks[benchmark].rubric
        if answers is None or rubric is None:
            return None
        settings = {
            "judge": [self.judge, self.suite.judge.identity],
            "rubric": [rubric.instructions, rubric.best, rubric.language],
        }
        return key_of("verdicts", settings, {"answers": answers.digest}, code_version("esft_bench.harness.judge"))

    # What is there.

    def trained(self, cell: Cell) -> Artifact | None:
        """A cell's finished training."""
        return self.keys.find(self.stage(cell))

    def answers(self, cell: Cell, benchmark: str) -> Artifact | None:
        """A cell's finished answers to a benchmark."""
        return self._find("answers", self.answers_key(cell, benchmark))

    def verdicts(self, cell: Cell, benchmark: str) -> Artifact | None:
        """The judge's finished verdicts on a cell's answers."""
        return self._find("verdicts", self.verdicts_key(cell, benchmark))

    def scores(self, cell: Cell, benchmark: str) -> Artifact | None:
        """The artifact that holds a cell's item scores: the judge's verdicts where the benchmark is judged."""
        if self.tasks[benchmark].rubric is not None:
            return self.verdicts(cell, benchmark)
        return self.answers(cell, benchmark)

    def judged(self, cell: Cell, benchmark: str) -> bool:
        """Whether nothing is left for the judge to do; verdicts that met an outage are asked for again."""
        if self.tasks[benchmark].rubric is None:
            return True
        verdicts = self.verdicts(cell, benchmark)
        return verdicts is not None and not verdicts.measured.get("failed")

    def _find(self, kind: str, key: str | None) -> Artifact | None:
        return self.store.find(kind, key) if key else None

    def state(self, cell: Cell) -> State:
        """How far a cell has come."""
        if self.trained(cell) is None:
            return "to do"
        benchmarks = self.benchmarks(cell)
        if any(self.answers(cell, name) is None for name in benchmarks):
            return "trained"
        return "done" if all(self.judged(cell, name) for name in benchmarks) else "answered"


def make_plan(
    suite: Suite,
    store: Store,
    source: Source,
    *,
    chosen: Mapping[str, set[str]],
    engine: str,
    judge: str,
    weights: bool = True,
) -> Plan:
    """Check a suite against what is installed, read its data, and lay out its cells.

    Without `weights` the backbone's configuration is enough: for looking at a plan that is not to be carried out.

    Raises UserError, TaskError or MethodError, one sentence, before anything is computed.
    """
    methods = {row: make_method(*suite.row(row)[:2], row) for row in suite.methods}
    for row, method in methods.items():
        check(suite, row, method)
    tasks = _tasks(suite)
    folder = backbones.locate(suite.backbone, weights)
    digest = backbones.digest(folder, store.root / "backbones", weights)
    backbones.check_methods(folder, methods, suite.backbone.trust_remote_code)
    limit = suite.evaluation.limit
    data = {name: _materialise(task, source, limit, store.root / "data") for name, task in tasks.items()}
    keys = Keys(suite, store, data, digest)
    plan = Plan(suite, store, tasks, methods, data, folder, keys, engine, judge, dict(chosen))
    for cell in plan.cells:
        plan.sources[cell.method, cell.task] = _source(plan, cell)
    return plan


def _source(plan: Plan, cell: Cell) -> str:
    """Digest of the files that a cell's method brings along, which must fit the backbone; empty without any."""
    try:
        folder = plan.stage(cell).method.source(plan.backbone)
    except MethodError as error:
        raise UserError(f"methods.{cell.method}: {error}.") from error
    return backbones.digest(folder, plan.store.root / "backbones") if folder else ""


def _tasks(suite: Suite) -> dict[str, Task]:
    """The tasks a suite names, each checked to be what it is used as."""
    known = load_tasks()
    chosen: dict[str, Task] = {}
    alignment = [suite.alignment] if suite.alignment else []
    for part, names in (
        ("tasks", suite.tasks),
        ("tested_only", suite.tested_only),
        ("general", suite.general),
        ("alignment", alignment),
    ):
        for name in names:
            task = find_task(name, known)
            if part == "tested_only":
                task = replace(task, training=None)
            if part in ("tasks", "alignment") and task.training is None:
                raise UserError(f"{part}: task '{name}' has no training data.")
            chosen[name] = task
            tested = [find_task(other, known) for other in task.benchmarks] if part == "tasks" else []
            chosen |= {other.name: other for other in tested}
            for other in tested or [task]:
                if part != "alignment" and (other.items is None or other.lm_eval is None):
                    raise UserError(f"{part}: task '{other.name}' has no evaluation items.")
    return chosen


def _materialise(task: Task, source: Source, limit: int | None, folder: Path) -> TaskData:
    """Write a task's rows to files named by their contents; files that are there stay. `limit` is for test items."""
    try:
        conversations = list(task.training(source)) if task.training else None
        questions = list(islice(task.items(source), limit)) if task.items else None
    except TaskError as error:
        raise type(error)(f"Task '{task.name}': {error}") from error
    training, training_digest, _ = _write_rows(conversations, folder)
    items, items_digest, count = _write_rows(questions, folder)
    if task.training and training is None:
        raise UserError(f"Task '{task.name}': its training split is empty.")
    if task.items and items is None:
        raise UserError(f"Task '{task.name}': its evaluation split is empty.")
    return TaskData(training, items, training_digest, items_digest, count)


def _write_rows(rows: list[Any] | None, folder: Path) -> tuple[Path | None, str, int]:
    if not rows:
        return None, "", 0
    digest = digest_of_text("\n".join(json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows))
    path = folder / f"{digest[:20]}.jsonl"
    if not path.exists():
        write_jsonl(path, rows)
    return path, digest, len(rows)
