"""Rows held out of training data as items: asked as they are trained on, and their own answers are right."""

import pytest
from lm_eval.api.model import LM

from esft_bench.harness.evaluate import asked, evaluate
from esft_bench.harness.plan.benchmarks import benchmark_of
from esft_bench.harness.plan.data import Reading, materialise
from esft_bench.harness.plan.held_out import held_out_items
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.training.held_out import held_out_rows
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import read_jsonl, write_jsonl
from esft_bench.tasks.likeness import likeness
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import turn
from tests.harness.plans import graph_of, prepared

TASKS = load_tasks()
MINI = [name for name, task in TASKS.items() if name.startswith("mini-") and task.training and task.items]
REAL = {"metamathqa": 2, "intent-bdci": 40, "intent-bdci-fewshot": 4, "law-bdci": 40, "translation-chren": 40}


class Pupil(LM):
    """Answers a question with what the training data answer, or with nothing."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def generate_until(self, requests, **_):
        asked = [request.args[0].removeprefix("User: ").removesuffix("\n\nAssistant:") for request in requests]
        return [self.answers.get(question, "") for question in asked]

    def loglikelihood(self, requests, **_):
        raise AssertionError

    loglikelihood_rolling = loglikelihood


def held(name, source, count):
    """A task's held-out rows as items, and the conversations."""
    task = TASKS[name]
    conversations = list(task.training(source))
    questions = list(task.items(source)) if task.items else []
    return list(held_out_items(task, source, conversations, questions, count)), conversations


def scores(name, items, answers, folder):
    """What answers get by the task's own metric, or by likeness where a judge would read them."""
    found = evaluate(Pupil(answers), [asked(benchmark_of(TASKS[name]), items)])[name].scores
    return [likeness(one.completion, one.answer) if one.state == "unscored" else one.score for one in found]


def check(name, source, count, folder):
    items, conversations = held(name, source, count)
    places = sorted(held_out_rows(conversations, count, ""))
    assert [item["id"] for item in items] == [f"{name}-training-{place + 1}" for place in places]
    assert [item["prompt"] for item in items] == [conversations[place][0]["content"] for place in places]
    answers = {question["content"]: " " + answer["content"] for question, answer, *_ in conversations}
    assert scores(name, items, answers, folder) == pytest.approx([1.0] * count)
    assert max(scores(name, items, {}, folder)) == 0.0


@pytest.mark.parametrize("name", MINI)
def test_the_answers_of_the_world_are_right_by_the_metric_of_their_task(tmp_path, name):
    check(name, Source(), 12, tmp_path)


@pytest.mark.parametrize("name", REAL)
def test_the_answers_of_real_training_rows_are_right_by_the_metric_of_their_task(shared_data, tmp_path, name):
    check(name, Source(shared_data), REAL[name], tmp_path)


def test_code_of_the_training_data_has_to_pass_its_own_tests(tmp_path):
    row = {"code": "def f(x): return x", "entry_point": "f", "testcase": ["assert f(3) == 6"]}
    said = {"right": "Here:\n```python\ndef f(x):\n    return 2 * x\n```\nThat is it.", "wrong": "def f(x): return x"}
    rows = [row | {"instruction": f"{kind} {n}", "output": text} for kind, text in said.items() for n in range(3)]
    (tmp_path / "opencoder").mkdir()
    write_jsonl(tmp_path / "opencoder" / "train.jsonl", rows)
    items, conversations = held("opencoder", Source(tmp_path), 3)
    answers = {question["content"]: answer["content"] for question, answer in conversations}
    right = [float(item["prompt"].startswith("right")) for item in items]
    assert scores("opencoder", items, answers, tmp_path) == right


def test_rows_that_no_metric_scores_are_left_to_the_loss(tmp_path):
    task, rows = TASKS["evol-codealpaca"], [turn(str(n), "x") for n in range(4)]
    assert not list(held_out_items(task, Source(), rows, [], 2))
    choice = [{"id": "0", "prompt": "?", "answer": "a", "choices": ["a"], "gold": 0}]
    assert not list(held_out_items(TASKS["law-bdci"], Source(), rows, choice, 2))
    with pytest.raises(
        UserError, match=r"Task 'law-bdci' has 4 different rows: training\.validation_items 3 leaves too few"
    ):
        list(held_out_items(TASKS["law-bdci"], Source(), rows, choice, 3))


def test_held_out_items_are_noted_beside_the_rows_and_found_again(tmp_path, monkeypatch):
    store = Store(tmp_path)
    data = materialise(TASKS["mini-code"], Reading(Source(), 4, held_out=6), store)
    assert len(read_jsonl(data.held_out.path)) == 6
    assert materialise(TASKS["mini-code"], Reading(Source(), 4), store).held_out is None
    monkeypatch.setattr("esft_bench.harness.plan.data.rows.items", None)  # nothing is made again
    assert materialise(TASKS["mini-code"], Reading(Source(), 4, held_out=6), store) == data


SUITE = """\
name: looked
tasks: [mini-law, mini-math]
general: [mini-facts]
methods:
  fft: {}
training: {steps: 4, batch_size: 2, sequence_length: 128, evaluate_every: 2, validation_items: 8}
evaluation: {engine: transformers, limit: 4}
"""


def looks(folder, changes=""):
    """What each cell's training is scored on, and the notes."""
    text = SUITE.replace("validation_items: 8", f"validation_items: 8{changes}")
    made = prepared(folder, text)
    trainings = [path.training for path in made.plan.paths.values()]
    graph = graph_of(made)
    return [step.looks.benchmarks for step in trainings], made.notes, [graph.key(step) for step in trainings]


def test_a_suite_says_what_its_trainings_are_scored_on_and_that_is_part_of_their_keys(tmp_path):
    held_out, notes, keys = looks(tmp_path)
    assert [[one.name for one, _ in each] for each in held_out] == [["mini-law"], ["mini-math"]]
    assert [len(read_jsonl(items.path)) for ((_, items),) in held_out] == [8, 8]
    assert "Every 2 steps the task's own metric on 8 rows held out of each task's training data" in notes[-1]
    benchmark, notes, others = looks(tmp_path, ", evaluate_on: benchmark, choose: best")
    assert [len(read_jsonl(items.path)) for ((_, items),) in benchmark] == [4, 4]
    assert "a selection on the test" in notes[-1]
    loss, notes, more = looks(tmp_path, ", evaluate_by: loss")
    assert loss == [(), ()]
    assert "the loss on 8 rows" in notes[-1]
    assert len({*keys, *others, *more}) == 6
