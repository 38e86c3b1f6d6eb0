"""From cells to steps: a cell is a path through the graph, from profiles to verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

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
from esft_bench.harness.steps.question import QuestionStep
from esft_bench.harness.steps.search import Search
from esft_bench.harness.steps.step import Content, Step
from esft_bench.harness.steps.train import TrainStep, Tuned
from esft_bench.harness.steps.tune import TrialStep, TuneStep
from esft_bench.spec.cell import Cell
from esft_bench.spec.curve import ITSELF
from esft_bench.spec.files import lines_in
from esft_bench.spec.opinions import Kind
from esft_bench.spec.suite import ABLATED
from esft_bench.spec.tuned import tuned_as
from esft_bench.spec.tuning import Tune
from esft_bench.tasks.task import DIVERGENCE, Rubric

BY_LOSS = {"evaluate_by": "loss", "evaluate_on": "held-out"}
"""How trials are looked at, whatever the cells' own trainings are: no test item has a part in a search."""


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
    _trainings: dict[Cell, TrainStep] = field(default_factory=dict, compare=False, repr=False)
    _searches: dict[tuple[str, str], TuneStep] = field(default_factory=dict, compare=False, repr=False)
    _asked: dict[str, QuestionStep] = field(default_factory=dict, compare=False, repr=False)

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
        """A cell's training, the last one where there are several; made once, however many go on from it."""
        if cell not in self._trainings:
            step = self._given(cell)
            search = self.search(cell)
            times = cell.rate if self.matrix.suite.curve.along == "learning rate" else ITSELF
            tuned = Tuned(search, times, self._within(cell.method)) if search else None
            self._trainings[cell] = _after_first(replace(step, tuned=tuned), times)
        return self._trainings[cell]

    def search(self, cell: Cell) -> TuneStep | None:
        """The search whose values a cell is trained with, the same for all seeds; None where it has its own."""
        suite = self.matrix.suite
        tune, row = suite.tune, tuned_as(suite, cell.method)
        if tune is None or row is None or not self.matrix.methods[row].trains:
            return None
        known = row, cell.task if tune.per == "task" else ""
        if known not in self._searches:
            self._searches[known] = self._search(row, cell.task, tune)
        return self._searches[known]

    def _search(self, row: str, task: str, tune: Tune) -> TuneStep:
        suite = self.matrix.suite
        name, cells = row, [Cell(row, task, tune.seed, tuple(suite.methods[row].after))]
        if tune.per == "row":
            of_row = [each for each in self.matrix.cells if each.method == row and each.is_row]
            cells = [each for each in of_row if each.seed == suite.seeds[0]]
        else:
            name = f"{row} · {task}"
        tried = {each.task: self._tried(replace(each, seed=tune.seed)) for each in cells}
        own = suite.learning_rate(row, task if tune.per == "task" else "")
        return TuneStep(name, Search(tune, own, suite.methods[row].tune), suite.steps(row), tried)

    def searches(self) -> dict[tuple[str, str], TuneStep]:
        """Every search, by row and task; without a task where it is for all tasks of a row."""
        found: dict[tuple[str, str], TuneStep] = {}
        suite = self.matrix.suite
        for cell in self.matrix.cells:
            search = self.search(cell) if tuned_as(suite, cell.method) == cell.method else None
            if suite.tune is not None and search is not None:
                found[cell.method, cell.task if suite.tune.per == "task" else ""] = search
        return found

    def _tried(self, cell: Cell) -> TrialStep:
        """What a trial of a cell is, before values are put in."""
        step = self._given(cell)
        told = {field.name: getattr(step, field.name) for field in fields(step)}
        told |= {
            "profiling": step.profiling.model_copy(update={"after_training": False}),
            "training": step.training.model_copy(update={"profile_every": None} | BY_LOSS),
            "looks": UNSCORED,
        }
        return _after_first(TrialStep(**told))

    def _within(self, row: str) -> str:
        """The hyperparameter that holds those of the row whose search it takes its values from."""
        suite = self.matrix.suite
        way = [row]
        while way[-1] != tuned_as(suite, row):
            above = suite.methods[way[-1]]
            way.append(above.ablates or above.continues)
        return ABLATED if any(suite.methods[each].ablates for each in way[:-1]) else ""

    def profile(self, task: str) -> ProfileStep:
        """The profile of the backbone on a task's training data, which methods may read and the report shows."""
        suite = self.matrix.suite
        data = self.data[task].training
        assert data is not None
        apart = suite.training.expert_parallel
        return ProfileStep(task, data, self.backbone, suite.backbone, suite.profiling, apart=apart)

    def _given(self, cell: Cell) -> TrainStep:
        """A cell's training with the values that its row was given."""
        suite, method = self.matrix.suite, self.matrix.methods[cell.method]
        tasks = cell.tasks or suite.tasks[:1]
        name, learning_rate = suite.row(cell.method)[0], suite.learning_rate(cell.method, cell.task)
        rows = sum(lines_in(self._conversations(task).path) for task in tasks) if suite.training.epochs else None
        told: dict[str, Any] = {"steps": suite.steps(cell.method, rows), "epochs": None}
        if suite.curve.along == "learning rate":
            learning_rate *= cell.rate
        told["steps"] = suite.curve.steps_at(cell.rate, told["steps"])
        told["learning_rate"] = learning_rate
        told["profile_every"] = None if cell.after else suite.profile_every(cell.method)
        alignment = self._conversations(suite.alignment) if suite.alignment else None
        return TrainStep(
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
            before=tuple(self._before(cell)),
        )

    def _before(self, cell: Cell) -> Iterator[TrainStep]:
        """The trainings on the tasks that a cell's model had been trained on before."""
        for number, task in enumerate(cell.after):
            row = self.matrix.suite.methods[cell.method]
            yield self.training(Cell(row.continues or cell.method, task, cell.seed, cell.after[:number]))

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
        return AnswerStep(cell.label, training, self._questions(benchmark), self.engine)

    def _questions(self, benchmark: str) -> QuestionStep:
        """A benchmark's questions, made once for all cells."""
        if benchmark not in self._asked:
            items, asked = self.data[benchmark].items, benchmark_of(self.matrix.tasks[benchmark])
            assert items is not None
            self._asked[benchmark] = QuestionStep(asked, items, self.backbone, self.matrix.suite.backbone)
        return self._asked[benchmark]

    def _divergence(self, cell: Cell, training: TrainStep, measure: str) -> DivergeStep:
        suite, items = self.matrix.suite, self.data[measure].items
        base = base_row(suite)
        assert items is not None
        assert base is not None
        drawing = self.training(Cell(base, "", suite.seeds[0]))
        samples = SampleStep(suite.title(base), drawing, self.engine, items)
        return DivergeStep(cell.label, training, self.engine, samples, self.matrix.tasks[measure].title)


S = TypeVar("S", bound=TrainStep)


def _after_first(step: S, times: float = ITSELF) -> S:
    """A training with the one before it, where its method has two stages, between which its steps are shared out.

    `times`: of a learning rate that this one has of its own.
    """
    stage = step.method.first_stage
    if stage is None:
        return step
    told = {field.name: getattr(step, field.name) for field in fields(step)} | {
        "name": f"{step.name}, stage 1",
        "method_name": stage.method,
        "method": make_method(stage.method, dict(stage.hyperparameters), stage.method),
        "general": None,
        "source": None,
        "tuned": replace(step.tuned, within=None) if step.tuned and stage.learning_rate is None else None,
    }
    return replace(step, first=TrainStep(**told)).trained(step.training, times)
