"""What is done for a matrix grows as the matrix does: counted in files opened and in calls, never in time."""

import gc
import io
import os
import tracemalloc
from collections import Counter

import pytest

from esft_bench.harness.execute.executor import Ended
from esft_bench.harness.execute.ready import Ready
from esft_bench.harness.plan.matrix import Matrix
from esft_bench.harness.plan.paths import Paths
from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.step import Parallelism, Step
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.keys import Code
from esft_bench.harness.store.sealing import seal
from esft_bench.reports.backbone_results import BackboneResults
from esft_bench.reports.manifest import Manifest, stored_suite
from esft_bench.spec.files import made_folder
from esft_bench.spec.record import Record
from tests.harness.drivers import Silent
from tests.harness.executors import Beside
from tests.harness.plans import prepared
from tests.harness.toys import Toy

SMALL, LARGE = 15, 60
"""Cells of two matrices; what is done for a cell must not depend on how many there are."""


class Calls:
    """Counts calls of functions while it is there."""

    def __init__(self, monkeypatch, *functions):
        self.count: Counter[str] = Counter()
        for owner, name in functions:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), name))

    def _counted(self, function, name):
        def call(*args, **kwargs):
            self.count[name] += 1
            return function(*args, **kwargs)

        return call


class Quiet(Toy):
    """A toy that says nothing."""

    def _counts(self, job): ...


def ends(cells, benchmarks=4):
    """A matrix: all trainings rest on one profile, and each cell's answers on its training and on shared questions."""
    profile = Quiet("counts", told="profile")
    questions = [Quiet("counts", told=f"questions {number}") for number in range(benchmarks)]
    trained = [Quiet("counts", (profile,), f"cell {number}") for number in range(cells)]
    return [Quiet("counts", (one, asked), f"{one.told} on {asked.told}") for one in trained for asked in questions]


WATCHED = (
    (io, "open"),
    (os, "scandir"),
    (os, "listdir"),
    (os, "rename"),
    (Step, "__hash__"),
    (Step, "key"),
    (Graph, "is_ready"),
    (Graph, "_look"),
    (Code, "sources"),
    (Ready, "take"),
)


def walked(folder, cells, monkeypatch):
    """Calls while a matrix is carried out, and while the finished one is looked at anew."""
    counts = []
    wanted = ends(cells)
    with monkeypatch.context() as patch:
        calls = Calls(patch, *WATCHED)
        graph = Graph(wanted, Store(folder))
        assert not Schedule(graph, Beside(), Silent(), Parallelism(), wanted).run()
        counts.append(calls.count)
    assert len(graph.finished) == 1 + 4 + 5 * cells
    with monkeypatch.context() as patch:
        calls = Calls(patch, *WATCHED)
        assert len(Graph(wanted, Store(folder)).finished) == len(graph.finished)
        counts.append(calls.count)
    return counts


def test_carrying_out_and_looking_at_a_matrix_take_as_many_calls_a_cell_however_large_it_is(tmp_path, monkeypatch):
    small, large = (walked(tmp_path / str(cells), cells, monkeypatch) for cells in (SMALL, LARGE))
    for few, many in zip(small, large, strict=True):
        assert many.keys() == few.keys() >= {"__hash__", "key", "_look", "scandir", "open"}
        for name in few:
            assert many[name] <= 1.1 * LARGE / SMALL * few[name], name


class Apart(Beside):
    """Makes, runs and seals as an executor does elsewhere; what that takes is not the driver's."""

    def __init__(self, made):
        super().__init__()
        self._made = made

    def wait(self):
        before = len(self._made)
        ended: list[Ended] = []
        for step, job in self._started:
            made_folder(job.out)
            measured = step.run(job) | dict.fromkeys("abcde", float(len(ended)))
            ended.append(Ended(step, measured, sealed=seal(job.out, job.manifest, measured)))
        self._started.clear()
        del self._made[before:]
        return ended


def test_a_step_that_was_sealed_where_it_ran_costs_its_driver_no_folder_and_no_file(tmp_path, monkeypatch):
    found = []
    for cells in (SMALL, LARGE):
        made: list[str] = []
        with monkeypatch.context() as patch:
            for owner, name in ((os, "mkdir"), (io, "open")):
                patch.setattr(owner, name, noted(getattr(owner, name), made))
            wanted = ends(cells)
            graph = Graph(wanted, Store(tmp_path / str(cells)))
            assert not Schedule(graph, Apart(made), Silent(), Parallelism(), wanted).run()
        found.append(len(made))
    assert found[1] <= found[0] < SMALL  # the first walk reads the source that keys hash


def noted(function, made):
    """A function that notes when it went well."""

    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        made.append(args[0])
        return result

    return call


def held_after(folder, cells):
    """Bytes that a walk leaves in memory, and how many steps it finished."""
    wanted = ends(cells)
    graph = Graph(wanted, Store(folder))
    schedule = Schedule(graph, Apart([]), Silent(), Parallelism(), wanted)
    gc.collect()
    tracemalloc.start()
    try:
        assert not schedule.run()
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(graph.finished)
    finally:
        tracemalloc.stop()


def test_what_a_driver_holds_does_not_grow_as_steps_are_finished(tmp_path):
    held_after(tmp_path / "first", 1)  # what is made once
    small, large = (held_after(tmp_path / str(cells), cells) for cells in (SMALL, 2 * LARGE))
    bytes_a_step = (large[0] - small[0]) / (large[1] - small[1])
    assert bytes_a_step < 100  # 801 when digests and measurements were kept; what is left are pieces of paths


LINE = """\
name: line
tasks: [mini-math, mini-code, mini-intent, mini-summary, mini-law, mini-translation]
methods:
  fft: {learning_rate: 9.0e-4}
  last: {continues: fft, after: [mini-math, mini-code, mini-intent, mini-summary, mini-law]}
training: {steps: 2, batch_size: 2, sequence_length: 128}
evaluation: {engine: transformers, repeats: {cells: 1, times: 2}}
tune: {trials: 3, rungs: 1, per: row}
"""


def test_a_plan_makes_each_training_and_each_search_once_and_lays_out_its_cells_once(tmp_path, monkeypatch):
    calls = Calls(monkeypatch, (Paths, "_given"), (Paths, "_search"), (Matrix, "_trained_on"))
    plan = prepared(tmp_path, LINE).plan
    trainings = {step for step in plan.graph(Store(tmp_path / "empty")).steps if type(step) is TrainStep}
    assert len(trainings) == 6 + 5
    tried = 2 * 6  # what a search tries on each task
    assert calls.count["_given"] <= len(trainings) + tried
    assert calls.count["_search"] <= 2
    assert calls.count["_trained_on"] <= 3 * 2  # rows, for each of the matrices that are checked


class Seen(list[Record]):
    """Records that count how often one of them is looked at."""

    looks = 0

    def __iter__(self):
        for each in super().__iter__():
            type(self).looks += 1
            yield each


def record(row, task, seed):
    told = {"run": "r", "suite": "s", "backbone": "b", "method": row, "method_title": row, "task": task, "seed": seed}
    about = {"benchmark": task, "benchmark_title": task, "role": "ability", "metric": "exact_match", "value": 50.0}
    return Record(**told, **about, n=1, scored=1)


def asked(monkeypatch, seeds):
    """How often records are looked at while every cell of a table is asked for."""
    records = [record(row, task, seed) for row in "ab" for task in ("x", "y", "z") for seed in range(seeds)]
    results = BackboneResults(records, None, Manifest(stored_suite({})[0]))
    monkeypatch.setattr(Seen, "looks", 0)
    results.records = Seen(results.records)
    for _ in range(50):
        for row in results.rows:
            for column in results.columns("ability"):
                assert len(results.of(row, column, "ability")) == seeds
                assert not results.is_base(row)
                assert results.tested_on(column.name) == [column.name]
    return Seen.looks / len(records)


def test_a_report_looks_at_a_record_as_often_however_many_tables_ask(monkeypatch):
    few, many = asked(monkeypatch, 2), asked(monkeypatch, 20)
    assert many == pytest.approx(few)
    assert many <= 10  # once for the rows, and for the columns once and once for each of them
