"""The benchmarks on real rows: their traps, their metrics, and that nothing is trained on that is tested."""

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from esft_bench.tasks import ceval, cluewsc, commonsenseqa, humaneval, math, mbpp, mmlu, strategyqa
from esft_bench.tasks.arc_challenge import gold
from esft_bench.tasks.arc_challenge import items as arc_items
from esft_bench.tasks.benchmark import in_turn
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.humaneval.metric import program as humaneval_program
from esft_bench.tasks.ifeval.metric import mean_of_scored
from esft_bench.tasks.ifeval.metric import process_results as check_instructions
from esft_bench.tasks.mbpp.metric import program as mbpp_program
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.sandbox import run_many
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Item

WriteRows = Callable[..., Source]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """`write_rows("arc_challenge/test", row, …)` writes that file and returns the source that reads it."""

    def write(name: str, *rows: dict[str, Any]) -> Source:
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Source(tmp_path)

    return write


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ARC: some questions have the labels 1 to 4, some copies mix them with letters.


@pytest.mark.parametrize(
    ("key", "labels", "place"),
    [("C", "ABCD", 2), ("3", "1234", 2), ("3", "ABCD", 2), ("C", "1234", 2), ("1", "123", 0), ("E", "ABCDE", 4)],
)
def test_an_arc_answer_is_found_among_letters_and_numbers(key: str, labels: str, place: int) -> None:
    assert gold(key, list(labels), "here") == place


@pytest.mark.parametrize(("key", "labels"), [("E", "ABCD"), ("5", "1234"), ("5", "ABCD"), ("", "1234"), ("", "ABCD")])
def test_an_arc_answer_that_is_no_label_is_refused(key: str, labels: str) -> None:
    with pytest.raises(TaskError, match=r"arc, row 7: the answer .* is none of"):
        gold(key, list(labels), "arc, row 7")


def test_numeric_arc_labels_give_the_item_that_letters_give(write_rows: WriteRows) -> None:
    texts = ["iron", "wood", "air", "tea"]
    rows = [
        {"id": str(n), "question": "What rusts?", "choices": {"text": texts, "label": list(labels)}, "answerKey": key}
        for n, (labels, key) in enumerate([("1234", "1"), ("ABCD", "A")])
    ]
    numeric, lettered = arc_items(write_rows("arc_challenge/test", *rows))
    assert numeric["gold"] == lettered["gold"] == 0
    assert numeric["answer"] == "iron"


def test_the_two_copies_of_arc_agree(shared_data: Path) -> None:
    original = {row["id"]: row for row in read(shared_data / "arc_challenge/ARC-Challenge-Test.original.jsonl")}
    items = [item for item in arc_items(Source(shared_data)) if item["id"] in original]
    assert len(items) == 300
    for item in items:
        row = original[item["id"]]
        right = next(each["text"] for each in row["question"]["choices"] if each["label"] == row["answerKey"])
        assert item["answer"] == right


# C-Eval's test split has no answers; so has CommonsenseQA's.


def test_ceval_asks_the_labelled_split(shared_data: Path) -> None:
    items = list(ceval.items(Source(shared_data)))
    assert len(items) == 1346
    assert {len({item["id"].rpartition("-")[0] for item in items[:52]})} == {52}  # a limit keeps every subject


def test_ceval_rows_without_an_answer_are_refused(shared_data: Path, write_rows: WriteRows) -> None:
    write_rows("ceval/dev", *read(shared_data / "ceval/dev.jsonl"))
    source = write_rows("ceval/val", *read(shared_data / "ceval/test.jsonl")[:3])
    with pytest.raises(TaskError, match="ceval, split 'val', row 1: the answer '' is none of A, B, C, D"):
        list(ceval.items(source))


def test_commonsenseqa_rows_without_an_answer_are_refused(shared_data: Path, write_rows: WriteRows) -> None:
    row = read(shared_data / "commonsenseqa/validation.hub.jsonl")[0] | {"answerKey": ""}
    with pytest.raises(TaskError, match="split 'validation', row 1: the answer '' is none of"):
        list(commonsenseqa.items(write_rows("commonsenseqa/validation", row)))


# StrategyQA answers are booleans: "false" as a text would be true.


def test_strategyqa_answers_are_booleans(shared_data: Path) -> None:
    rows = read(shared_data / "strategyqa/dev.jsonl")
    items = list(strategyqa.items(Source(shared_data)))
    assert [item["answer"] for item in items] == ["yes" if row["answer"] else "no" for row in rows]
    assert {item["answer"] for item in items} == {"yes", "no"}


def test_a_strategyqa_answer_in_words_is_refused(write_rows: WriteRows) -> None:
    source = write_rows("strategyqa/test", {"qid": "1", "question": "Is it?", "answer": "false"})
    with pytest.raises(TaskError, match=r"test\.jsonl, line 1: field 'answer' must be true or false, found a string"):
        list(strategyqa.items(source))


def test_cluewsc_labels_are_words_not_truth_values(shared_data: Path) -> None:
    rows = read(shared_data / "cluewsc2020/test_public.jsonl")
    items = list(cluewsc.items(Source(shared_data)))
    assert [item["answer"] == "是" for item in items] == [row["label"] == "true" for row in rows]
    assert 0.3 < sum(item["gold"] for item in items) / len(items) < 0.7
    assert all(row["target"]["span1_text"] in item["prompt"] for row, item in zip(rows, items, strict=True))


def test_mmlu_examples_are_of_the_questions_subject(shared_data: Path) -> None:
    for item in islice(mmlu.items(Source(shared_data)), 57):
        subject = item["id"].split("-")[1].replace("_", " ")
        assert item["prompt"].startswith(f"The following are multiple choice questions (with answers) about {subject}.")
        assert item["prompt"].count("\nAnswer:") == 6


def test_in_turn_takes_one_of_each_group_at_a_time() -> None:
    groups: list[list[Item]] = [
        [{"id": "a0"}, {"id": "a1"}, {"id": "a2"}],
        [{"id": "b0"}],
        [{"id": "c0"}, {"id": "c1"}],
    ]
    assert [item["id"] for item in in_turn(groups)] == ["a0", "b0", "c0", "a1", "c1", "a2"]


# Metrics.


def test_every_reference_solution_of_humaneval_passes_and_an_empty_one_fails(shared_data: Path) -> None:
    items = list(humaneval.items(Source(shared_data)))
    outcomes = run_many([humaneval_program(item, item["answer"] + "\n```\nThat is it.") for item in items])
    assert [item["id"] for item, outcome in zip(items, outcomes, strict=True) if not outcome.ok] == []
    assert not any(outcome.ok for outcome in run_many([humaneval_program(item, "    pass") for item in items[:10]]))


def test_reference_solutions_of_mbpp_pass_and_an_empty_one_fails(shared_data: Path) -> None:
    items = [item for item in islice(mbpp.items(Source(shared_data)), 200) if item["id"] != "mbpp-123"]  # takes minutes
    outcomes = run_many([mbpp_program(item, item["answer"] + "\n```") for item in items])
    assert [item["id"] for item, outcome in zip(items, outcomes, strict=True) if not outcome.ok] == []
    assert not any(outcome.ok for outcome in run_many([mbpp_program(item, "") for item in items[:10]]))


def test_instructions_are_checked_by_lm_evals_code(shared_data: Path) -> None:
    items = load_tasks()["ifeval"].items
    assert items is not None
    by_kind = {item["answer"]: item for item in items(Source(shared_data))}
    lower = by_kind["change_case:english_lowercase"]
    kept = check_instructions(lower, [" all of this is written in small letters, as it was asked for."])
    broken = check_instructions(lower, [" This IS NOT."])
    assert (kept["prompt_level_strict_acc"], broken["prompt_level_strict_acc"]) == (1.0, 0.0)


def test_an_instruction_that_cannot_be_checked_here_is_unscored(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nltk.data.path", [])
    monkeypatch.setattr("nltk.download", lambda *_, **__: False)
    items = load_tasks()["ifeval"].items
    assert items is not None
    capitals = next(item for item in items(Source(shared_data)) if "capital_word_frequency" in item["answer"])
    scored = check_instructions(capitals, ["WORDS IN CAPITALS"])
    assert set(scored.values()) == {None}
    assert mean_of_scored([None, 1.0, 0.0]) == 0.5


# What is trained on or shown as an example is not tested.


def questions(items: Iterable[Item]) -> set[str]:
    return {item["prompt"] for item in items}


@pytest.mark.parametrize(("name", "shared"), [("intent-bdci", 1), ("law-bdci", 0), ("translation-chren", 0)])
def test_training_questions_are_not_test_questions(shared_data: Path, name: str, shared: int) -> None:
    """One intent command stands in both files of the release; nothing else does."""
    task = load_tasks()[name]
    assert task.training is not None
    assert task.items is not None
    source = Source(shared_data)
    asked = {item["prompt"].partition("： ")[2] or item["prompt"] for item in task.items(source)}
    trained = {turns[0]["content"].partition("： ")[2] or turns[0]["content"] for turns in task.training(source)}
    assert len(asked & trained) == shared


def test_no_translation_trained_on_is_a_reference(shared_data: Path) -> None:
    task = load_tasks()["translation-chren"]
    assert task.training is not None
    assert task.items is not None
    trained = {turns[1]["content"].strip() for turns in task.training(Source(shared_data))}
    assert len(trained) > 900
    assert not trained & {item["answer"].strip() for item in task.items(Source(shared_data))}


def test_metamath_questions_are_not_test_questions(shared_data: Path) -> None:
    known = load_tasks()
    training = known["metamathqa"].training
    assert training is not None
    trained = {turns[0]["content"] for turns in training(Source(shared_data))}
    for name in known["metamathqa"].benchmarks:
        items = known[name].items
        assert items is not None
        assert not any(question in item["prompt"] for item in items(Source(shared_data)) for question in trained)


@pytest.mark.parametrize(
    ("examples", "tests", "fields"),
    [
        ("gsm8k/train", "gsm8k/test", ["question"]),
        ("mmlu/dev", "mmlu/test", ["question", "choices"]),
        ("ceval/dev", "ceval/val", ["question", "A", "B"]),
    ],
)
def test_examples_are_no_test_questions(shared_data: Path, examples: str, tests: str, fields: list[str]) -> None:
    shown, asked = (
        {str([row[field] for field in fields]) for row in read(shared_data / f"{name}.jsonl")}
        for name in (examples, tests)
    )
    assert not shown & asked


def test_no_sentence_of_cluewsc_is_both_example_and_question(shared_data: Path) -> None:
    """FewCLUE's training and test splits share sentences, some with the same question."""
    items = list(cluewsc.items(Source(shared_data)))
    asked = {item["prompt"].rpartition("\n\n")[2] for item in items}
    shown = {f"{part.rpartition('答案：')[0]}答案：" for part in items[0]["prompt"].split("\n\n")[:-1]}
    assert len(shown) == cluewsc.SHOTS
    assert not shown & asked
    assert not {text.partition("\n问题：")[0] for text in shown} & {text.partition("\n问题：")[0] for text in asked}


def test_the_examples_of_math_are_no_test_problems(shared_data: Path) -> None:
    shown = {str(shot["problem"].split()[:6]) for shot in json.loads(math.SHOTS.read_text("utf-8"))}
    for items in (math.items, math.items_500):
        assert not shown & {str(item["problem"].split()[:6]) for item in items(Source(shared_data))}


def test_mbpp_examples_and_tests_come_from_their_own_ranges(shared_data: Path) -> None:
    assert not set(mbpp.SHOTS) & set(mbpp.TEST)
    assert len(questions(mbpp.items(Source(shared_data)))) == 500
