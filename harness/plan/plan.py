"""A plan: a suite, checked, with its data read and every cell's path laid out."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from esft_bench.harness.backbone import files as backbones
from esft_bench.harness.plan.checks import (
    check_backbone,
    check_file_names,
    check_frozen,
    check_optimizer,
    check_served_from,
    methods_of,
    tasks_of,
)
from esft_bench.harness.plan.data import Reading, TaskData, materialise
from esft_bench.harness.plan.matrix import Matrix
from esft_bench.harness.plan.overlap import with_overlap
from esft_bench.harness.plan.paths import CellPath, Paths
from esft_bench.harness.plan.prompting import Prompting, with_prompt
from esft_bench.harness.plan.unpacked import Unpacking, unpacking_of
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.profile import ProfileStep
from esft_bench.harness.steps.step import Content
from esft_bench.harness.steps.tune import TuneStep
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.keys import keep_parsed
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Method
from esft_bench.spec.cell import Cell
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Suite
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Task

PARSED = ".parsed"
"""The notes on what our source imports."""


@dataclass(frozen=True)
class Plan:
    """What is to be done, as far as it is known before anything is.

    Attributes:
        matrix: the suite with its rows' methods and its tasks.
        data: the tasks' rows.
        backbone: the checkpoint.
        engine, judge: who serves and who judges, as the report names them.
        paths: each cell's way through the graph of steps, row by row.
        profiles: the profiles of the backbone that rows may read, by task.
        searches: where the suite is tuned, the search for each row's values, by row and task (none where it is for
            all tasks of the row).
        unpacking: that of the backbone, where it ships quantised. Until it is unpacked, files that methods bring along
            are left out, since they are held against its tensors.
    """

    matrix: Matrix
    data: Mapping[str, TaskData]
    backbone: Content
    engine: EngineSettings
    judge: str
    paths: Mapping[Cell, CellPath]
    profiles: Mapping[str, ProfileStep]
    searches: Mapping[tuple[str, str], TuneStep]
    unpacking: Unpacking | None = None

    @property
    def suite(self) -> Suite:
        """What was asked for."""
        return self.matrix.suite

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The suite's tasks and benchmarks, by name."""
        return self.matrix.tasks

    @property
    def methods(self) -> Mapping[str, Method]:
        """The rows' methods."""
        return self.matrix.methods

    @property
    def cells(self) -> list[Cell]:
        """Every cell, row by row."""
        return list(self.paths)

    def graph(self, store: Store) -> Graph:
        """The graph of all cells' steps, with what of it is in a store."""
        return Graph([step for path in self.paths.values() for step in path.last], store)

    def look(self, store: Store) -> Graph:
        """The same for one who only asks how far things are: what was looked at before, by any process, is not read."""
        gc.disable()  # nothing of a graph is garbage, and searching it for some takes an eighth of the time
        try:
            store.looks.recall()
            graph = self.graph(store)
            store.keep_looks(graph.artifacts.values())
            keep_parsed(store.notes(PARSED))
        finally:
            gc.freeze()  # nor is it searched from now on
            gc.enable()
        return graph

    def digests(self) -> dict[str, str]:
        """Of the contents a run reads: the backbone's checkpoint, and each task's rows."""
        rows = {
            f"{name}, {part}": content.digest
            for name, data in self.data.items()
            for part, content in (("training", data.training), ("items", data.items), ("held out", data.held_out))
            if content is not None
        }
        return {"backbone": self.backbone.digest, **rows}


def make_plan(
    suite: Suite,
    store: Store,
    source: Source,
    *,
    engine: EngineSettings,
    judges: Sequence[tuple[str, Any]],
    weights: bool = True,
) -> Plan:
    """Check a suite against what is installed, read its data, and lay out its cells.

    `judges` are each judge's name and what makes it another one, that of the tables first. Without `weights` the
    backbone's configuration is enough: for looking at a plan that is not to be carried out.

    Raises UserError, TaskError or MethodError, one sentence, before anything is computed.
    """
    methods, tasks = methods_of(suite), tasks_of(suite)
    check_file_names(Matrix(suite, methods, tasks))
    check_optimizer(suite)
    folder = backbones.locate(suite.backbone, weights)
    suite = suite.model_copy(update={"backbone": with_prompt(suite.backbone, folder)})
    matrix = Matrix(suite, methods, tasks)
    if suite.evaluation.engine == "vllm":
        check_served_from([folder, store.root])
    check_frozen(suite, methods, folder)
    known = store.notes(backbones.NOTES)
    digest = (backbones.digest if weights else backbones.known_digest)(folder, known)
    unpacking = unpacking_of(folder, digest, store, whole=weights)
    backbone = unpacking.content if unpacking else Content(folder, digest)
    check_backbone(backbone.path, matrix.methods, suite, store)
    form, held = Prompting(suite.backbone, folder), _held_out(suite)
    reading = Reading(source, suite.evaluation.limit, form.refusal, form.identity)
    found = {
        name: materialise(task, replace(reading, held_out=held if name in suite.tasks else None), store)
        for name, task in matrix.tasks.items()
    }
    data = with_overlap(suite, found)
    sources = {} if unpacking and not unpacking.artifact else _sources(matrix, matrix.cells, backbone.path, store)
    paths = Paths(matrix, backbone, data, engine, judges, sources)
    return Plan(
        matrix=matrix,
        data=data,
        backbone=backbone,
        engine=engine,
        judge=judges[0][0],
        paths={cell: paths.of(cell) for cell in matrix.cells},
        profiles={task: paths.profile(task) for task in (*suite.tasks, *filter(None, [suite.alignment]))},
        searches=paths.searches(),
        unpacking=unpacking,
    )


def _held_out(suite: Suite) -> int | None:
    """How many rows of each task's training data its trainings are scored on."""
    training = suite.training
    scored = training.evaluate_every is not None and training.evaluate_by == "metric"
    return training.validation_items if scored and training.evaluate_on == "held-out" else None


def _sources(matrix: Matrix, cells: Iterable[Cell], backbone: Path, store: Store) -> dict[tuple[str, str], Content]:
    """The files that cells' methods bring along, which must fit the backbone, by row and task."""
    found: dict[tuple[str, str], Content] = {}
    for cell in cells:
        method = matrix.methods[cell.method].for_task((cell.tasks or matrix.suite.tasks)[0])
        try:
            folder = method.source(backbone)
        except MethodError as error:
            raise UserError(f"methods.{cell.method}: {error}.") from error
        if folder is not None:
            found[cell.method, cell.task] = Content(folder, backbones.digest(folder, store.notes(backbones.NOTES)))
    return found
