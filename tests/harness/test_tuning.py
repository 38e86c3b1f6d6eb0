"""Tuned rows: what is searched and shared, what trials look at, and what cells are then trained with."""

import json
import re
from collections import Counter
from dataclasses import fields
from functools import partial

import pytest
from transformers import AutoTokenizer

from esft_bench.harness.backbone.prompts import Release
from esft_bench.harness.commands.export.choice import Chosen
from esft_bench.harness.commands.plan import describe
from esft_bench.harness.plan.price.estimate import TrainingPrice, tuning_prices
from esft_bench.harness.steps.rehearse import rehearsed
from esft_bench.harness.steps.step import Job, with_needs
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.manifest import Manifest
from esft_bench.harness.store.names import LOG, TUNED
from esft_bench.harness.training.cell import _data
from esft_bench.harness.training.data import encode_file
from esft_bench.spec.cell import Cell
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import made_folder, read_jsonl
from esft_bench.tasks.mini import BACKBONE
from tests.harness.plans import finish, graph_of, prepared

SUITE = """\
name: tuned
tasks: [mini-law, mini-intent]
general: [mini-facts]
alignment: mini-alignment
seeds: [0, 1]
methods:
  base: {title: Base}
  fft: {title: FFT, learning_rate: 1.0e-3}
  lora: {title: LoRA, learning_rate: 1.0e-2}
  esft-gate: {title: ESFT, learning_rate: 2.0e-2, tune: {p: [0.1, 0.2]}}
  random: {title: Random, ablates: esft-gate}
  told: {title: Told, ablates: esft-gate, learning_rate: 5.0e-3}
  das-tune: {title: DAS, first_share: 0.34}
training: {steps: 12, batch_size: 2, sequence_length: 128, validation_items: 8}
tune: {trials: 4}
profiling: {sequences: 2, sequence_length: 128, after_training: true}
evaluation: {engine: transformers, max_length: 512, limit: 4}
"""


OWN = re.compile(r"^base|seed [01]\b")


@pytest.fixture
def made(tmp_path):
    """`made(text)`: a suite with that text, prepared."""
    return lambda text=SUITE, **options: prepared(tmp_path, text, **options)


def searches(plan):
    """The search of each cell's training, by cell; None where there is none."""
    return {
        cell: path.training.tuned.search if path.training.tuned else None
        for cell, path in plan.paths.items()
        if cell.method != "base"
    }


def log_of(loss):
    """Fills a trial's artifact with a log that ends at a loss on held-out rows."""
    return lambda folder: (folder / LOG).write_text(json.dumps({"validation": [[4, loss]], "chosen": None}))


def ready_steps(made):
    """The steps that could start now, but for the cells' own."""
    graph = graph_of(made)
    return [step for step in graph.steps if graph.is_ready(step) and not OWN.search(step.label)]


def finish_trials(made, loss):
    """Put the artifacts of all trials in place, as far as the searches ask for them, with what they need."""
    ran = []
    while ready := [step for step in ready_steps(made) if step.kind != "tune"]:
        for step in ready:
            finish(made, step, log_of(loss(step)) if step.kind == "trial" else None)
        ran += [step for step in ready if step.kind == "trial"]
    return ran


def tuned(made):
    """Run the searches whose trials are over; their artifacts, by label."""
    graph = graph_of(made)
    found = {}
    for step in [step for step in graph.steps if step.kind == "tune" and graph.is_ready(step)]:
        inputs = {role: artifact.folder for role, artifact in graph.inputs(step).items()}
        found[step.label] = finish(made, step, partial(run, step, inputs))
    return found


def run(step, inputs, out):
    """Run a step into a folder."""
    step.run(Job(inputs, out, out))


def test_seeds_share_a_search_and_a_row_that_ablates_another_takes_what_was_found_for_it(made):
    plan = made().plan
    found = searches(plan)
    for task in ("mini-law", "mini-intent"):
        own = found[Cell("esft-gate", task, 0)]
        assert [found[Cell(row, task, seed)] for row in ("esft-gate", "random") for seed in (0, 1)] == [own] * 4
        assert found[Cell("told", task, 0)] is None, "it has a learning rate of its own"
        assert own not in (found[Cell("fft", task, 0)], None)
    assert plan.searches.keys() == {
        (row, task) for row in ("fft", "lora", "esft-gate", "das-tune") for task in ("mini-law", "mini-intent")
    }


def test_rows_that_are_named_are_tuned_and_no_others(made):
    plan = made(SUITE.replace("{trials: 4}", "{trials: 4, rows: [fft, random]}")).plan
    assert {row for row, _ in plan.searches} == {"fft", "random"}
    assert searches(plan)[Cell("esft-gate", "mini-law", 0)] is None


def test_every_row_has_as_many_trials_of_as_many_steps(made):
    ready = made()
    ran = finish_trials(ready, lambda step: step.training.learning_rate)
    for row in ("fft", "lora", "esft-gate", "das-tune"):
        own = [step for step in ran if step.label.startswith(f"{row} · mini-law")]
        assert sorted(sum(stage.training.steps for stage in step.whole) for step in own) == [4, 4, 4, 4, 12, 12, 12]
    budgets = {price.steps for price in tuning_prices(ready.plan, [])}
    assert budgets == {52}


def test_a_search_over_all_tasks_of_a_row_goes_by_the_mean_of_their_losses(made):
    ready = made(SUITE.replace("{trials: 4}", "{trials: 3, rungs: 1, per: row, rows: [fft]}"))
    assert list(ready.plan.searches) == [("fft", "")]

    def loss(step):
        return abs(step.training.learning_rate - (1.0e-3 if "mini-law" in step.tasks else 3.0e-3)) * 1000

    assert len(finish_trials(ready, loss)) == 6
    (found,) = tuned(ready).values()
    assert json.loads((found.folder / TUNED).read_text())["learning_rate"] in (1.0e-3, 3.0e-3)
    assert len({path.training.tuned.search for cell, path in ready.plan.paths.items() if cell.method == "fft"}) == 1


def test_the_same_outcome_gives_the_same_training_and_it_gets_what_was_found(made):
    ready = made()
    finish_trials(ready, lambda step: abs(step.training.learning_rate - 6.667e-3) + step.training.learning_rate / 1e6)
    tuned(ready)
    graph = graph_of(ready)
    for row, within in (("esft-gate", ""), ("random", "of")):
        step = ready.plan.paths[Cell(row, "mini-law", 0)].training
        inputs = {role: artifact.folder for role, artifact in graph.inputs(step).items()}
        told = step.told(Job(inputs, BACKBONE, BACKBONE))
        assert told.training.learning_rate == 6.667e-3
        p = told.hyperparameters["of"]["p"] if within else told.hyperparameters["p"]
        assert p in (0.1, 0.2)
        again = made(SUITE.replace("{trials: 4}", "{trials: 4, ratio: 3.0, rows: [esft-gate]}"))
        other = again.plan.paths[Cell(row, "mini-law", 0)].training
        tuned(again)
        assert graph_of(again).key(other) == graph.key(step)


def test_the_points_of_a_curve_are_multiples_of_the_rate_found(made):
    ready = made(SUITE.replace("tune: {trials: 4}", "tune: {trials: 4, rows: [fft]}\ncurve: {rates: [0.5]}"))
    finish_trials(ready, lambda step: abs(step.training.learning_rate - 3.0e-3))
    tuned(ready)
    graph = graph_of(ready)
    row, point = (ready.plan.paths[Cell("fft", "mini-law", 0, rate=rate)].training for rate in (1.0, 0.5))
    assert row.tuned.search == point.tuned.search
    assert graph.key(row) != graph.key(point)
    inputs = {role: artifact.folder for role, artifact in graph.inputs(row).items()}
    rates = [step.told(Job(inputs, BACKBONE, BACKBONE)).training.learning_rate for step in (row, point)]
    assert rates == [3.0e-3, 1.5e-3]


def test_trials_are_looked_at_by_the_loss_on_held_out_rows_whatever_the_cells_are(made):
    text = SUITE.replace("validation_items: 8}", "validation_items: 8, evaluate_every: 3, evaluate_on: benchmark}")
    plan = made(text).plan
    cell = plan.paths[Cell("fft", "mini-law", 0)].training
    (trial, *_) = plan.searches["fft", "mini-law"].needs.values()
    assert cell.looks.benchmarks
    assert not trial.looks.benchmarks
    assert (trial.training.evaluate_by, trial.training.evaluate_on) == ("loss", "held-out")


def test_two_suites_that_ask_for_the_same_trial_share_it(made):
    ran = finish_trials(made(), lambda step: 1.0)
    other = made(SUITE.replace("name: tuned", "name: other").replace("mini-law, mini-intent", "mini-intent"))
    graph = graph_of(other)
    there = [step for step in graph.steps if step.kind == "trial"]
    assert there
    assert set(there) < set(ran)
    assert all(step in graph.finished for step in there)


def test_trials_and_their_first_stages_train_without_the_held_out_rows_and_none_of_these_is_a_test_item(made):
    plan = made().plan
    form = Release(AutoTokenizer.from_pretrained(BACKBONE))
    items = {item["prompt"] for item in read_jsonl(plan.data["mini-law"].items.path)}
    everything = encode_file(form, plan.data["mini-law"].training.path, 128)
    prompts = [row[0]["content"] for row in read_jsonl(plan.data["mini-law"].training.path)]
    search = plan.searches["das-tune", "mini-law"]
    for trial in search.needs.values():
        parts = [_data(form, stage.told(Job({}, BACKBONE, BACKBONE))) for stage in trial.whole]
        assert [len(held) for _, _, held in parts] == [8, 8]
        assert parts[0][2] == parts[1][2]
        rows = [sample.ids for sample in everything]
        for (own,), _, held in parts:
            assert len(own) + sum(rows.count(sample.ids) for sample in held) == len(everything)
            assert not any(sample.ids == other.ids for sample in held for other in own)
            asked = {prompts[sample.row] for sample in held}
            assert not any(prompt in item for prompt in asked for item in items)


def test_the_cells_themselves_train_on_all_rows(made):
    step = made().plan.paths[Cell("fft", "mini-law", 0)].training
    assert step.training.evaluate_every is None


def test_a_rehearsal_needs_no_search(made):
    path = made().plan.paths[Cell("random", "mini-law", 0)]
    assert {step.kind for step in with_needs([rehearsed(path.training)])} == {"rehearsal"}
    assert {field.name for field in fields(path.training)} >= {"tuned"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("tune: {trials: 2}", "begins with 3 learning rates, and tune.trials is 2"),
        ("tune: {rows: [sgd]}", "tune.rows names 'sgd', which is no row of this suite"),
        ("tune: {per: model}", "tune.per: Input should be 'task' or 'row'"),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_file_and_line(made, change, said):
    with pytest.raises(UserError, match=r"suite\.yaml, line") as refused:
        made(SUITE.replace("tune: {trials: 4}", change))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{p: [0.1, 2.0]}", r"methods\.esft-gate\.tune\.p: "),
        ("{q: [0.1, 0.2]}", r"methods\.esft-gate\.tune\.q: "),
    ],
)
def test_values_that_the_method_does_not_take_are_refused_before_anything_is_computed(made, change, said):
    with pytest.raises(UserError, match=said):
        made(SUITE.replace("{p: [0.1, 0.2]}", change))


def test_what_makes_a_first_stage_is_not_searched(made):
    with pytest.raises(UserError, match=r"das-tune\.tune\.first_share: what makes the first of two stages"):
        made(SUITE.replace("first_share: 0.34", "first_share: 0.34, tune: {first_share: [0.3, 0.5]}"))


def test_a_card_says_what_a_training_was_tuned_to(tmp_path):
    told = {"method": "fft", "hyperparameters": {"p": 1}, "training": {"steps": 6, "learning_rate": {"factor": 1.0}}}
    values = {"learning_rate": 0.02, "hyperparameters": {"p": 0.5}}
    manifest = Manifest(kind="train", key="k", digest="d", settings=told, measured={"tuned": values})
    store = Store(tmp_path)
    found = Chosen(None, [], [store.finish(made_folder(store.begin("train", "k")), manifest)], "").settings
    assert found == {"method": "fft", "hyperparameters": {"p": 0.5}, "training": {"steps": 6, "learning_rate": 0.02}}


def test_what_is_left_of_a_search_is_foreseen_before_it_is_asked_for(made):
    ready = made(SUITE.replace("{trials: 4}", "{trials: 4, rows: [fft]}"))
    wanted = [path.training for cell, path in ready.plan.paths.items() if cell.method == "fft"]

    def left():
        return Counter(graph_of(ready).to_come(wanted))

    assert left() == {"trial": 14, "tune": 2, "train": 4}
    first = next(step for step in ready_steps(ready) if step.kind == "trial")
    finish(ready, first, log_of(1.0))
    assert left()["trial"] == 13
    finish_trials(ready, lambda step: step.training.learning_rate)
    assert left() == {"tune": 2, "train": 4}


def test_the_price_of_tuning_is_that_of_its_steps(made):
    plan = made().plan
    (fft, *_) = tuning_prices(plan, [TrainingPrice("FFT", 4, operations=12e9, seconds=6.0)])
    assert (fft.searches, fft.trials, fft.operations, fft.seconds) == (2, 4, 104e9, 52.0)


def test_a_plan_of_a_tuned_suite_is_shown_while_its_searches_go_on(made):
    ready = made()
    finish_trials(ready, lambda step: 1.0)
    assert "0 done" in describe(ready, graph_of(ready)).title


def test_a_search_for_a_row_that_trains_nothing_is_refused(made):
    with pytest.raises(UserError, match=r"tune\.rows: the row 'base' trains nothing"):
        made(SUITE.replace("tune: {trials: 4}", "tune: {trials: 4, rows: [base]}"))
