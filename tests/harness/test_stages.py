"""Trainings that go on from one another: their order, what they share, what they cost, and a run stopped in between."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from esft_bench.harness.commands.options import SuiteOptions
from esft_bench.harness.plan.overrides import with_backbone
from esft_bench.spec import curves
from esft_bench.spec.cell import Cell
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite_file import load
from esft_bench.tasks.mini import BACKBONE
from tests.conftest import build
from tests.harness.plans import finish, graph_of, prepared
from tests.harness.runs import carry_out

SUITE = """\
name: staged
tasks: [mini-law]
general: [mini-facts]
alignment: mini-alignment
methods:
  attention-router: {steps: 2}
  das-tune: {first_share: 0.34}
  das-lora: {learning_rate: 2.0e-3, first_learning_rate: 1.0e-3, first_share: 0.34}
training:
  {steps: 6, batch_size: 2, sequence_length: 128, learning_rate: 1.0e-3, evaluate_every: 2, validation_items: 8,
   profile_every: 3}
profiling: {sequences: 2, sequence_length: 128}
evaluation: {engine: transformers, max_length: 512, limit: 4}
"""


@pytest.fixture
def made(tmp_path):
    """`made(text)`: a suite with that text, prepared."""
    return lambda text=SUITE, **options: prepared(tmp_path, text, **options)


@pytest.fixture
def planned(made):
    """`planned(text)`: the plan of such a suite."""
    return lambda text=SUITE, **options: made(text, **options).plan


def trainings(plan):
    """The last training of each cell."""
    return [path.training for path in plan.paths.values()]


def release(folder: Path) -> str:
    """An adapter of the small backbone, one expert of which it triples, in the official layout; returns its row."""
    adapter = folder / "released-mini-law"
    adapter.mkdir()
    name = "model.layers.1.mlp.experts.3.{}_proj.weight"
    with safe_open(BACKBONE / "model.safetensors", "pt") as file:
        tensors = {name.format(part): 3 * file.get_tensor(name.format(part)) for part in ("gate", "up", "down")}
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "expert_cfg.json").write_text('{"experts": {"1": [3]}}')
    return f'  released: {{method: adapter, path: "{folder}/released-{{task}}"}}\n'


def test_both_stages_together_take_the_steps_of_the_suite(planned):
    plan = planned()
    for cell, training in list(zip(plan.cells, trainings(plan), strict=True))[1:]:
        assert [stage.method_name for stage in training.whole] == ["attention-router", cell.method]
        assert [stage.training.steps for stage in training.whole] == [2, 4]


def test_rows_of_equal_settings_share_a_stage_and_its_profiles(made):
    """Six steps to train three cells: one stage 1, its profiles of domain and general data, two stages 2."""
    one = made()
    alone, *das = trainings(one.plan)
    assert all(training.first == alone for training in das)
    found = [step for step in graph_of(one).steps if step.kind in ("train", "profile")]
    assert found == [alone, *das[0].profiles.values(), *das]
    assert [profile.task for profile in das[0].profiles.values()] == ["mini-law", "mini-alignment"]


def test_a_step_waits_for_what_it_reads_and_its_key_follows_from_it(made):
    one = made()
    training = trainings(one.plan)[1]
    assert graph_of(one).is_ready(training.first)
    with pytest.raises(KeyError):
        graph_of(one).key(training)
    finish(one, training.first)
    assert not graph_of(one).is_ready(training)
    for profile in training.profiles.values():
        finish(one, profile)
    assert graph_of(one).key(training)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("alignment: mini-alignment\n", "", r"methods\.das-tune: .* name a task under `alignment`"),
        ("steps: 6", "steps: 1", r"methods\.das-tune: two stages take at least 2 steps"),
        ("das-tune: {first_share: 0.34}", "das-tune: {first_share: 1.0}", r"methods\.das-tune\.first_share"),
        ("{steps: 2}", "{steps: 0}", r"attention-router\.steps"),
    ],
)
def test_stages_that_cannot_be_are_refused_before_anything_is_trained(planned, old, new, sentence):
    with pytest.raises(UserError, match=sentence):
        planned(SUITE.replace(old, new))


MANY = """\
name: many
tasks: [mini-law, mini-intent, mini-math]
general: [mini-facts]
alignment: mini-alignment
methods:
  fft: {}
  fft-mixture: {method: fft, together: true}
  esft-union: {}
  random-union: {ablates: esft-union}
  fft-later: {continues: fft, after: [mini-law, mini-math], learning_rate: 5.0e-4}
training: {steps: 4, batch_size: 2, sequence_length: 128, learning_rate: 1.0e-3}
profiling: {sequences: 2, sequence_length: 128}
evaluation: {engine: transformers, max_length: 512, limit: 4}
"""


def test_tasks_trained_together_are_one_cell_tested_on_every_one_of_them(made):
    plan = made(MANY).plan
    together = [cell for cell in plan.cells if len(cell.tasks) > 1]
    assert [cell.method for cell in together] == ["fft-mixture", "esft-union", "random-union"]
    for cell in together:
        assert plan.matrix.benchmarks(cell) == ["mini-law", "mini-intent", "mini-math", "mini-facts"]
        assert list(plan.paths[cell].training.tasks) == ["mini-law", "mini-intent", "mini-math"]
    union = plan.paths[together[1]].training
    assert [profile.task for profile in union.profiles.values()] == ["mini-law", "mini-intent", "mini-math"]
    assert {cell.method for cell in made(MANY, only="task=mini-law,task=mini-math").chosen} == {"fft"}


def test_a_row_that_continues_another_goes_on_from_its_training_and_is_tested_on_it_too(planned):
    plan = planned(MANY)
    (cell,) = (cell for cell in plan.cells if cell.after)
    law, math, intent = plan.paths[cell].training.whole
    assert [list(step.tasks) for step in (law, math, intent)] == [["mini-law"], ["mini-math"], ["mini-intent"]]
    assert law == trainings(plan)[0]  # the row's own cell, computed once
    assert (math.before, intent.before) == ((law,), (law, math))
    assert (math.training.learning_rate, intent.training.learning_rate) == (1.0e-3, 5.0e-4)
    assert plan.matrix.benchmarks(cell) == ["mini-intent", "mini-law", "mini-math", "mini-facts"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("continues: fft,", "continues: ffft,", "names 'ffft', which is no row"),
        ("continues: fft,", "continues: fft-mixture,", "no row of single tasks"),
        ("continues: fft, ", "", "`continues` names a row and `after` the tasks"),
        ("after: [mini-law,", "after: [mini-lav,", "names 'mini-lav', which is no task"),
        ("after: [mini-law,", "after: [mini-law, mini-intent,", "none is left to train on"),
    ],
)
def test_a_row_that_continues_what_is_not_there_is_refused(planned, old, new, sentence):
    with pytest.raises(UserError, match=sentence):
        planned(MANY.replace(old, new))


def test_a_released_adapter_is_a_cell_for_each_task_whose_key_follows_from_its_contents(made, tmp_path):
    text = SUITE.replace("methods:\n", "seeds: [4, 5]\nmethods:\n" + release(tmp_path))

    def key():
        one = made(text)
        return graph_of(one).key(trainings(one.plan)[0])

    plan = made(text).plan
    assert (plan.cells[0], plan.cells[1].method) == (Cell("released", "mini-law", 4), "attention-router")
    assert plan.matrix.benchmarks(plan.cells[0]) == ["mini-law", "mini-facts"]
    before = key()
    assert key() == before
    weights = tmp_path / "released-mini-law" / "adapter_model.safetensors"
    save_file({name: -tensor for name, tensor in load_file(weights).items()}, weights)
    assert key() != before


def test_an_adapter_of_another_backbone_is_refused_by_the_name_of_its_row(planned, tmp_path):
    text = SUITE.replace("methods:\n", "methods:\n" + release(tmp_path))
    other = tmp_path / "other"
    build("deepseek-v2", vocab_size=2048).save_pretrained(other)
    AutoTokenizer.from_pretrained(BACKBONE).save_pretrained(other)
    with pytest.raises(UserError, match=r"methods\.released: .* belongs to another backbone"):
        planned(text + f"backbone: {{path: {other}}}\n")
    suite, notes = with_backbone(load(str(tmp_path / "suite.yaml")), "mini")
    assert "released" not in suite.methods
    assert "released" in notes[-1]


def command(folder: Path, text: str) -> list[str]:
    suite = folder / "staged.yaml"
    suite.write_text(text)
    return [
        sys.executable,
        "-m",
        "esft_bench.harness.cli",
        "run",
        str(suite),
        "--run-dir",
        str(folder / "runs"),
        "--workers=1",
    ]


def artifacts(folder: Path) -> dict[str, float]:
    """Each finished artifact and when it was finished."""
    store = folder / "runs" / ".store"
    manifests = [path for path in store.glob("*/*/manifest.json") if not path.parent.name.startswith(".")]
    return {path.parent.relative_to(store).as_posix(): path.stat().st_mtime for path in manifests}


@pytest.mark.slow
def test_a_run_of_two_stages_killed_between_them_goes_on_and_adds_their_costs_up(tmp_path):
    suite = SUITE.replace("methods:\n", "methods:\n" + release(tmp_path))
    process = subprocess.Popen(command(tmp_path, suite), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(name.startswith("train") for name in artifacts(tmp_path)) < 2:  # the adapter, and stage 1
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = artifacts(tmp_path)
    carry_out(SuiteOptions(str(tmp_path / "staged.yaml"), run_dir=tmp_path / "runs"))
    after = artifacts(tmp_path)
    assert before.items() <= after.items(), "a finished step was done again"
    assert sum(name.startswith("train") for name in after) == 4  # stage 1 once for three rows
    assert sum(name.startswith("profile") for name in after) == 2
    results = pandas.read_csv(tmp_path / "runs" / "staged" / "results.csv")
    assert set(results.state) == {"scored"}
    assert set(results[(results.method == "released") & (results.role != "cost")].benchmark) == {
        "mini-law",
        "mini-facts",
    }
    costs = results[results.role == "cost"].pivot(index="metric", columns="method", values="value")
    stages, das = costs["attention-router"], costs["das-tune"]
    assert list(costs.loc["train_steps", ["attention-router", "das-tune", "das-lora"]]) == [2, 6, 6]
    assert das["train_seconds"] > stages["train_seconds"]
    assert das["trainable_parameters"] > stages["trainable_parameters"]
    assert das["stored_bytes"] > stages["stored_bytes"]
    points = [point for point in curves.read(tmp_path / "runs" / "staged") if point.method == "das-tune"]
    assert [point.step for point in points if point.metric == "loss"] == [1, 2, 3, 4, 5, 6]
    assert [point.step for point in points if point.metric == "validation_loss"] == [2, 4, 6]
    assert [point.step for point in points if point.metric == curves.SCORE] == [2, 4, 6]
    for metric in (curves.CONSISTENCY, f"{curves.CONCENTRATION}6"):
        measured = {point.step: point.value for point in points if point.metric == metric}
        assert list(measured) == [0, 2, 5, 6]  # of stage 1 the start and the end, of stage 2 the third step and the end
        assert (measured[0] == 0.0) == (metric == curves.CONSISTENCY)
    drawn = {path.stem for path in (tmp_path / "runs" / "staged" / "figures").glob("*.svg")}
    assert {"learning-curves-score", "das-5-routing-consistency"} <= drawn
    assert "held out of each task's training data" in (tmp_path / "runs" / "staged" / "report.md").read_text()
