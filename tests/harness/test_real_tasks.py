"""The papers' tasks on real rows: each can be encoded, asked and scored with the backbone that ships."""

from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from esft_bench.harness.backbone.model import load_tokenizer
from esft_bench.harness.backbone.prompts import Release
from esft_bench.harness.evaluate import asked, evaluate, lm_eval_task, quiet
from esft_bench.harness.serving.local_lm import LocalLM
from esft_bench.harness.training.data import encode
from esft_bench.tasks.errors import MissingDataError
from esft_bench.tasks.mini import BACKBONE
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Item, Task

REAL = {name: task for name, task in load_tasks().items() if not name.startswith("mini-")}
TESTED = [name for name, task in REAL.items() if task.items and task.role != "drift"]
TRAINED = [name for name, task in REAL.items() if task.training]
NOT_FOUND = {"alignment-public", "codealpaca", "evol-codealpaca", "opencoder", "summary-bdci", "summary-bdci-fewshot"}
"""Tasks whose training rows no copy was found of (../shared/data/SOURCES.md)."""


class Brief(LocalLM):
    """A model that is stopped after a few tokens."""

    def generate_until(self, requests, **more):
        for request in requests:
            request.arguments = (request.args[0], request.args[1] | {"max_gen_toks": 8})
        return super().generate_until(requests, **more)


@pytest.fixture(scope="module")
def lm() -> Brief:
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(BACKBONE, dtype="float32").eval()
        tokenizer = load_tokenizer(BACKBONE)
        return Brief.of(model, tokenizer, 2048, 32)


def some(task: Task, data: Path, count: int) -> list[Item]:
    assert task.items is not None
    return list(islice(task.items(Source(data)), count))


@pytest.mark.parametrize("name", TRAINED)
def test_training_rows_load_and_encode(shared_data: Path, name: str) -> None:
    training = REAL[name].training
    assert training is not None
    if name in NOT_FOUND:
        with pytest.raises(MissingDataError, match=r"Looked for .*train\.jsonl"):
            next(iter(training(Source(shared_data))))
        return
    tokenizer = load_tokenizer(BACKBONE)
    for conversation in islice(training(Source(shared_data)), 20):
        (sample,) = encode(Release(tokenizer), conversation)
        assert sample.ids[0] == tokenizer.bos_token_id
        assert sample.ids[-1] == sample.labels[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("name", TESTED)
def test_items_are_complete_and_lm_eval_takes_them(shared_data: Path, name: str) -> None:
    task = REAL[name]
    items = some(task, shared_data, 10_000)
    assert len(items) >= 100
    assert len({item["id"] for item in items}) == len(items)
    assert all(isinstance(item[key], str) and item[key] for item in items for key in ("id", "prompt"))
    assert all(item["choices"][item["gold"]] == item["answer"] for item in items if "choices" in item)
    prepared = lm_eval_task(task, items[:3])
    asked = [prepared.doc_to_text(doc) for doc in prepared.test_docs()]
    assert all(item["prompt"] in text for item, text in zip(items, asked, strict=False))


def test_references_are_right_by_lm_evals_own_metrics(shared_data: Path) -> None:
    for name in ("math", "math-500"):
        items = some(REAL[name], shared_data, 5)
        task = lm_eval_task(REAL[name], items)
        for doc, other in zip(task.test_docs(), [*items[1:], items[0]], strict=True):
            assert task.process_results(doc, [" " + doc["solution"]])["math_verify"] == 1
            assert task.process_results(doc, [" " + other["solution"]])["math_verify"] == 0


class Parrot(LocalLM):
    """A model that says what it is given."""

    said: str

    def generate_until(self, requests, **_):
        return [self.said for _ in requests]


@pytest.mark.parametrize(
    ("name", "said", "score"),
    [
        ("gsm8k", " She makes 9 * 2 = $18 a day.\nThe answer is: 18", 1.0),
        ("gsm8k", " 17", 0.0),
        ("triviaqa", " Mark Twain.", 1.0),
        ("triviaqa", " soleather", 1.0),  # an alias
        ("triviaqa", " Oscar Wilde", 0.0),
        ("ifeval", "", 0.0),
        ("mbpp", "def nothing(): pass", 0.0),
    ],
)
def test_an_answer_gets_the_score_it_deserves(shared_data: Path, tmp_path, lm, name, said, score) -> None:
    parrot = Parrot.__new__(Parrot)
    parrot.__dict__ = {**lm.__dict__, "said": said}
    items = some(REAL[name], shared_data, 1)
    (scored,) = evaluate(parrot, [asked(REAL[name], items)])[name].scores
    assert scored.score == score
    assert scored.completion == said


@pytest.mark.slow
def test_every_task_is_answered_and_scored_by_the_backbone_that_ships(shared_data: Path, tmp_path: Path, lm) -> None:
    cut = [
        asked(task, [shortened(item) for item in some(task, shared_data, 2)]) for task in map(REAL.get, TESTED) if task
    ]
    scores = {name: found.scores for name, found in evaluate(lm, cut).items()}
    assert set(scores) == set(TESTED)
    for name, items in scores.items():
        states = {item.state for item in items}
        assert len(items) == 2
        assert states == {"unscored"} if REAL[name].rubric else states <= {"scored", "unscored"}
        assert name == "ifeval" or REAL[name].rubric or states == {"scored"}


def shortened(item: Item) -> Item:
    """The item with the end of its prompt alone: reading 2,000 tokens of examples shows nothing more."""
    return {**item, "prompt": item["prompt"][-300:]}
