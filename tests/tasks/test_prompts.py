"""Our prompts are lm-eval's, word for word: each is compared with the one its own task makes of the same rows."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from datasets import Dataset
from jinja2 import Environment
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Item

LM_EVAL = Path(lm_eval.__file__).parent / "tasks"
Rows = list[dict[str, Any]]


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def ours(name: str, data: Path, count: int) -> list[Item]:
    items = load_tasks()[name].items
    assert items is not None
    return list(islice(items(Source(data)), count))


def theirs(path: str, shots: int = 0, **splits: Rows) -> tuple[ConfigurableTask, list[dict[str, Any]], list[str]]:
    """lm-eval's task on these rows, its documents and the prompts it makes of them."""
    config = load_yaml(LM_EVAL / path) | {"num_fewshot": shots}
    if "samples" not in (config.get("fewshot_config") or {}):
        config["fewshot_config"] = {"sampler": "first_n"}
    data = {name: Dataset.from_list(rows) for name, rows in splits.items()}
    task = ConfigurableTask(config=config | {"custom_dataset": lambda **_: data})
    docs = list(task.eval_docs)
    return task, docs, [task.fewshot_context(doc, shots) for doc in docs]


def agree_on_choices(task: ConfigurableTask, docs: Iterable[dict[str, Any]], items: list[Item]) -> None:
    for doc, item in zip(docs, items, strict=True):
        assert task.doc_to_choice(doc) == item["choices"]
        gold = task.doc_to_target(doc)
        assert (item["choices"].index(gold) if isinstance(gold, str) else int(gold)) == item["gold"]


def test_gsm8k(shared_data: Path) -> None:
    train, test = read(shared_data / "gsm8k/train.jsonl"), read(shared_data / "gsm8k/test.jsonl")[:20]
    _, _, prompts = theirs("gsm8k/gsm8k.yaml", 5, train=train, test=test)
    assert [item["prompt"] for item in ours("gsm8k", shared_data, 20)] == prompts


@pytest.mark.parametrize("name", ["math", "math500"])
def test_math(shared_data: Path, name: str) -> None:
    rows = read(shared_data / name / "test.jsonl")[:20]
    path = "minerva_math/minerva_math_algebra.yaml"
    _, _, prompts = theirs(path, 4, train=rows, test=rows)
    items = ours("math" if name == "math" else "math-500", shared_data, 20)
    assert [item["prompt"] for item in items] == prompts


@pytest.mark.parametrize("subject", ["anatomy", "high_school_world_history"])
def test_mmlu(shared_data: Path, subject: str) -> None:
    def of(split: str) -> Rows:
        return [row for row in read(shared_data / "mmlu" / f"{split}.jsonl") if row["subject"] == subject]

    task, docs, prompts = theirs(f"mmlu/default/mmlu_{subject}.yaml", 5, dev=of("dev"), test=of("test"))
    items = [item for item in ours("mmlu", shared_data, 2000) if item["id"].startswith(f"mmlu-{subject}-")]
    assert [item["prompt"] for item in items] == prompts
    assert len(items) == 20
    agree_on_choices(task, docs, items)


@pytest.mark.parametrize("subject", ["accountant", "logic"])
def test_ceval(shared_data: Path, subject: str) -> None:
    def of(split: str) -> Rows:
        return [row for row in read(shared_data / "ceval" / f"{split}.jsonl") if row["subject"] == subject]

    task, docs, prompts = theirs(f"ceval/ceval-valid_{subject}.yaml", 5, dev=of("dev"), val=of("val"))
    items = [item for item in ours("ceval", shared_data, 2000) if item["id"].startswith(f"ceval-{subject}-")]
    assert [item["prompt"] for item in items] == prompts
    agree_on_choices(task, docs, items)


@pytest.mark.parametrize(
    ("name", "path", "split", "file"),
    [
        ("hellaswag", "hellaswag/hellaswag.yaml", "validation", "hellaswag/validation.jsonl"),
        ("arc-challenge", "arc/arc_challenge.yaml", "test", "arc_challenge/test.jsonl"),
        ("commonsenseqa", "commonsense_qa/default.yaml", "validation", "commonsenseqa/validation.hub.jsonl"),
    ],
)
def test_multiple_choice_without_examples(shared_data: Path, name: str, path: str, split: str, file: str) -> None:
    rows = read(shared_data / file)[:200]
    task, docs, prompts = theirs(path, shots=0, **{split: rows, "train": rows[:1]})
    items = ours(name, shared_data, 200)
    assert [item["prompt"] for item in items] == prompts
    agree_on_choices(task, docs, items)


def test_triviaqa(shared_data: Path) -> None:
    rows = [
        {"question": row["question"], "answer": {"aliases": row["golden_answers"]}}
        for row in read(shared_data / "triviaqa/flashrag_test.jsonl")[:100]
    ]
    task, docs, prompts = theirs("triviaqa/default.yaml", train=rows[:1], validation=rows)
    items = ours("triviaqa", shared_data, 100)
    assert [item["prompt"] for item in items] == prompts
    assert [item["aliases"] for item in items] == [task.doc_to_target(doc) for doc in docs]


def rendered(template: str, row: dict[str, Any]) -> str:
    return Environment(keep_trailing_newline=True, autoescape=False).from_string(template).render(**row)


def test_humaneval_is_asked_as_in_their_instruct_task(shared_data: Path) -> None:
    config = load_yaml(LM_EVAL / "humaneval/humaneval_instruct.yaml", resolve_func=False)
    for row, item in zip(read(shared_data / "humaneval/test.jsonl"), ours("humaneval", shared_data, 164), strict=True):
        assert item["prompt"] == rendered(config["doc_to_text"], row)
        assert item["begun"] == rendered(config["gen_prefix"], row)
        assert item["tests"] == row["test"] + f"\ncheck({row['entry_point']})"


def test_mbpp_is_asked_as_in_their_instruct_task(shared_data: Path) -> None:
    config = load_yaml(LM_EVAL / "mbpp/mbpp_instruct.yaml", resolve_func=False)
    rows = {row["task_id"]: row for row in read(shared_data / "mbpp/mbpp.jsonl")}

    def asked(number: int) -> str:
        return rendered(config["doc_to_text"], rows[number])

    shots = "".join(
        asked(number)
        + config["gen_prefix"]
        + rendered(config["doc_to_target"], rows[number] | {"is_fewshot": True}).replace("\r\n", "\n")
        + "\n\n"
        for number in (2, 3, 4)
    )
    items = ours("mbpp", shared_data, 500)
    assert [item["id"] for item in items] == [f"mbpp-{number}" for number in range(11, 511)]
    assert [item["prompt"] for item in items] == [shots + asked(number) for number in range(11, 511)]
