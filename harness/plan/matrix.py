"""The matrix: the cells of a suite, and what each is tested on."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from esft_bench.methods.method import Method
from esft_bench.spec.cell import TOGETHER, Cell
from esft_bench.spec.curve import ITSELF
from esft_bench.spec.suite import Suite
from esft_bench.tasks.task import Task


@dataclass(frozen=True)
class Matrix:
    """backbone × task × method × seed: a suite with the methods of its rows and its tasks."""

    suite: Suite
    methods: Mapping[str, Method]
    tasks: Mapping[str, Task]

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell, row by row."""
        return [
            Cell(row, task, seed, tuple(self.suite.methods[row].after), rate)
            for row, method in self.methods.items()
            for rate in (self.suite.curve.points if method.trains else [ITSELF])
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

    def benchmarks(self, cell: Cell) -> list[str]:
        """What a cell is tested on: its tasks, earlier ones too (the base model: all), the general benchmarks, drift.

        A task without items of its own names the benchmarks that stand for it.
        """
        trained = [*cell.tasks, *cell.after] or [*self.suite.tasks, *self.suite.tested_only]
        own = [name for task in trained for name in self.tested_on(task)]
        return [*dict.fromkeys([*own, *self.suite.general, *self.suite.drift])]

    @cached_property
    def repeated(self) -> list[Cell]:
        """The cells that are asked more than once."""
        asked = self.suite.evaluation.repeats
        return [cell for cell in self.cells if self.methods[cell.method].trains][: asked.cells] if asked else []

    def tested_on(self, task: str) -> tuple[str, ...]:
        """The benchmarks of a task that is trained on: itself, or those it names."""
        return self.tasks[task].benchmarks or (task,)

    def own(self, cell: Cell) -> list[str]:
        """The benchmarks of the tasks that a cell was trained on; of all tasks for the base model."""
        return [name for name in self.benchmarks(cell) if name not in {*self.suite.general, *self.suite.drift}]
