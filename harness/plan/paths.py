"""From cells to steps: a cell is a path through the graph, from profiles to verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from esft_bench.harness.plan.benchmarks import benchmark_of
from esft_bench.harness.plan.checks import base_row, make_method
from esft_bench.harness.plan.data import TaskData
from esft_bench.harness.plan.matrix import Matrix
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.answer import AnswerStep
from esft_bench.harness.steps.benchmark import UNSCORED, Looks
from esft_bench.harness.steps.diverge import DivergeStep, SampleStep
from esft_bench.harness.steps.judge import JudgeStep, Probe
from esft_bench.harness.steps.profile import ProfileStep
from esft_bench.harness.steps.step import Content, Step
from esft_bench.harness.steps.train import TrainStep
from esft_bench.methods.method import FirstStage
from esft_bench.spec.cell import Cell
from esft_bench.spec.opinions import Kind
from esft_bench.tasks.task import DIVERGENCE, Rubric


@dataclass(frozen=True)
class CellPath:
    """A cell's way through the graph.

    `training` is its last training, `answers` what it answers to each benchmark, and `scores` the step that leaves each
    benchmark's item scores: the judge's where the benchmark is judged. `opinions` is what else judges are asked about
    those, for the report to say how far their scores can be trusted; `repeats` are the steps where the same items are
    asked again, by benchmark and the time, from 1.
    """

    cell: Cell
    training: TrainStep
    answers: Mapping[str, AnswerStep]
    scores: Mapping[str, Step]
    opinions: Mapping[str, Mapping[Kind, JudgeStep]] = field(default_factory=dict)
    repeats: Mapping[tuple[str, int], Step] = field(default_factory=dict)

    @property
    def last(self) -> list[Step]:
        """The steps that all the others are for."""
        further = (step for steps in self.opinions.values() for step in steps.values())
        return [self.training, *self.scores.values(), *further, *self.repeats.values()]


@dataclass(frozen=True)
class Paths:
    """Makes the steps of a matrix's cells.

    `backbone` is the checkpoint, `data` the tasks' rows, `sources` the files that methods bring along, by row and task,
    `judges` each judge's name and what makes it another one, that of the tables first.
    """

    matrix: Matrix
    backbone: Content
    data: Mapping[str, TaskData]
    engine: EngineSettings
    judges: Sequence[tuple[str, Any]]
    sources: Mapping[tuple[str, str], Content]

    def of(self, cell: Cell) -> CellPath:
        """A cell's path."""
        training = self.training(cell)
        names, tasks = self.matrix.benchmarks(cell), self.matrix.tasks
        answers = {name: self._answers(cell, training, name) for name in names if tasks[name].metric != DIVERGENCE}
        rubrics = {name: tasks[name].rubric for name in answers}
        opinions = {
            name: dict(self._opinions(step, rubric)) for name, step in answers.items() if (rubric := rubrics[name])
        }
        scores = {name: self._scored(step) for name, step in answers.items()}
        scores |= {name: self._divergence(cell, training, name) for name in names if name not in answers}
        asked = self.matrix.suite.evaluation.repeats
        times = asked.times if asked and cell in self.matrix.repeated else 1
        repeats = {
            (name, time): self._scored(replace(step, repeat=time))
            for time in range(1, times)
            for name, step in answers.items()
            if tasks[name].role != "drift"
        }
        return CellPath(cell, training, answers, scores, opinions, repeats)

    def _scored(self, step: AnswerStep) -> Step:
        """The step that leaves the item scores of answers."""
        rubric = self.matrix.tasks[step.benchmark.name].rubric
        return JudgeStep(step, rubric, self.judges[0]) if rubric else step

    def _opinions(self, answers: AnswerStep, rubric: Rubric) -> Iterator[tuple[Kind, JudgeStep]]:
        """What a second judge and the first one's probes are asked; a published prompt has one order alone."""
        for judge in self.judges[1:]:
            yield "second", JudgeStep(answers, rubric, judge)
        probes: tuple[Probe, ...] = ("verbosity",) if rubric.verbatim else ("order", "verbosity")
        count = self.matrix.suite.judge.probes
        for probe in probes if count else ():
            yield probe, JudgeStep(answers, rubric, self.judges[0], probe, count)

    def training(self, cell: Cell) -> TrainStep:
        """A cell's training, the last one where there are several."""
        suite = self.matrix.suite
        row = suite.methods[cell.method]
        before: tuple[TrainStep, ...] = ()
        for number, task in enumerate(cell.after):
            earlier = Cell(row.continues, task, cell.seed, cell.after[:number])
            before = (*before, self._training(earlier, [task], before))
        return self._training(cell, cell.tasks or suite.tasks[:1], before)

    def profile(self, task: str) -> ProfileStep:
        """The profile of the backbone on a task's training data, which methods may read and the report shows."""
        suite = self.matrix.suite
        data = self.data[task].training
        assert data is not None
        return ProfileStep(task, data, self.backbone, suite.backbone, suite.profiling)

    def _training(self, cell: Cell, tasks: Sequence[str], before: tuple[TrainStep, ...]) -> TrainStep:
        suite, method = self.matrix.suite, self.matrix.methods[cell.method]
        name, _, learning_rate = suite.row(cell.method)
        told: dict[str, Any] = {"learning_rate": learning_rate * cell.rate, "steps": suite.steps(cell.method)}
        told["profile_every"] = None if before else suite.profile_every(cell.method)
        alignment = self._conversations(suite.alignment) if suite.alignment else None
        step = TrainStep(
            name=cell.label,
            method_name=name,
            method=method.for_task(tasks[0]),
            tasks={task: self._conversations(task) for task in tasks},
            training=suite.training.model_copy(update=told),
            seed=cell.seed,
            profiling=suite.profiling,
            backbone=self.backbone,
            loading=suite.backbone,
            alignment=alignment,
            general=(suite.alignment, alignment) if method.needs_general and suite.alignment and alignment else None,
            looks=self._looks(tasks),
            source=self.sources.get((cell.method, cell.task)),
            before=before,
        )
        return _after_first(step, method.first_stage, cell.rate) if method.first_stage else step

    def _conversations(self, task: str) -> Content:
        data = self.data[task].training
        assert data is not None
        return data

    def _looks(self, tasks: Sequence[str]) -> Looks:
        """What a training on some tasks is scored on: rows held out of them, or their benchmarks."""
        training, matrix = self.matrix.suite.training, self.matrix
        if training.evaluate_every is None or training.evaluate_by == "loss":
            return UNSCORED
        if training.evaluate_on == "benchmark":
            found = [(name, self.data[name].items) for task in tasks for name in matrix.tested_on(task)]
        else:
            found = [(task, self.data[task].held_out) for task in tasks]
        scored = [(benchmark_of(matrix.tasks[name]), items) for name, items in found if items is not None]
        return Looks(tuple(scored), self.engine.max_length)

    def _answers(self, cell: Cell, training: TrainStep, benchmark: str) -> AnswerStep:
        items = self.data[benchmark].items
        assert items is not None
        return AnswerStep(cell.label, training, benchmark_of(self.matrix.tasks[benchmark]), items, self.engine)

    def _divergence(self, cell: Cell, training: TrainStep, measure: str) -> DivergeStep:
        suite, items = self.matrix.suite, self.data[measure].items
        base = base_row(suite)
        assert items is not None
        assert base is not None
        drawing = self.training(Cell(base, "", suite.seeds[0]))
        samples = SampleStep(suite.title(base), drawing, self.engine, items)
        return DivergeStep(cell.label, training, self.engine, samples, self.matrix.tasks[measure].title)


def _after_first(step: TrainStep, first: FirstStage, times: float) -> TrainStep:
    """A training with the one before it, between which its steps are shared out; `times`: of that one's own rate."""
    total = step.training.steps
    spent = min(max(1, round(first.share * total)), total - 1)
    rate = first.learning_rate * times if first.learning_rate else step.training.learning_rate
    before = replace(
        step,
        name=f"{step.name}, stage 1",
        method_name=first.method,
        method=make_method(first.method, dict(first.hyperparameters), first.method),
        training=step.training.model_copy(update={"steps": spent, "learning_rate": rate}),
        general=None,
        source=None,
    )
    return replace(step, training=step.training.model_copy(update={"steps": total - spent}), first=before)
