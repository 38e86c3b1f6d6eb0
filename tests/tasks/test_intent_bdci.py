import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.intent_bdci.data import LM_EVAL, fewshot_items, items, training
from esft_bench.tasks.intent_bdci.metric import clean, process_results, score
from esft_bench.tasks.prompt import question
from esft_bench.tasks.source import Source

ANSWER = '{"intent": "Music-Play", "slots": {"song": "丑八怪", "artist": ["薛之谦", "洛天依"]}}'


@pytest.mark.parametrize("method", ["gate", "token"])
def test_every_released_completion_gets_its_stored_score(shared_data: Path, method: str) -> None:
    path = shared_data / "esft_official" / "completions" / method / "intent.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    ours = [score(row["example"]["raw_prediction"], row["example"]["raw_answers"][0]) for row in rows]
    assert len(rows) == 500
    assert ours == [row["score"] for row in rows]


def test_the_few_shot_prompt_in_our_format_is_the_official_one(shared_data: Path) -> None:
    lines = (shared_data / "esft_intent" / "eval.jsonl").read_text("utf-8").splitlines()
    asked = [question(item["prompt"]) for item in fewshot_items(Source(shared_data))]
    assert asked == [json.loads(line)["prompt"] for line in lines]


def test_the_short_prompt_is_one_command_as_in_training(shared_data: Path) -> None:
    conversations = list(training(Source(shared_data)))
    short, official = list(items(Source(shared_data))), list(fewshot_items(Source(shared_data)))
    start = "请分析下面这句话的意图，并转化为json格式： "
    assert len(conversations) == 7280
    assert len(short) == 500
    assert len({item["id"] for item in short}) == 500
    for text in [*(item["prompt"] for item in short), *(turns[0]["content"] for turns in conversations)]:
        assert text.startswith(start)
        assert text.endswith("\n答案：")
        assert text.count(start) == 1
    assert all(o["prompt"].endswith(s["prompt"]) for o, s in zip(official, short, strict=True))


def test_a_reference_is_right_unless_it_has_spaces_of_its_own(shared_data: Path) -> None:
    """The release drops spaces from predictions only, so those few items can't be won: 1 of the 500."""
    references = [item["answer"] for item in items(Source(shared_data))]
    lost = [reference for reference in references if score(reference + "。\n\n", reference) == 0]
    assert len(lost) == 1
    assert all(any(" " in value for value in json.loads(reference)["slots"].values()) for reference in lost)


@pytest.mark.parametrize(
    "completion",
    [
        ANSWER,
        f"\n {ANSWER}。\n\nUser: 还有",
        f"```json\n{ANSWER}\n```\nhope this helps",
        '{"slots": {"artist": ["洛 天依", "薛之谦"], "song": " 丑八怪"}, "intent": "Music-Play"}',
    ],
)
def test_order_spaces_fences_and_full_stops_do_not_count(completion: str) -> None:
    assert score(completion, ANSWER) == 1


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "。\n。",
        "[]",
        "null",
        "3",
        "```json\nno end",
        '{"intent": "Music-Play"}',
        '{"intent": "Music-Play", "slots": null}',
        '{"intent": "Music-Play", "slots": {"song": 3, "artist": ["薛之谦", "洛天依"]}}',
        '{"intent": "Video-Play", "slots": {"song": "丑八怪", "artist": ["薛之谦", "洛天依"]}}',
        '{"intent": "Music-Play", "slots": {"song": "丑八怪", "artist": ["薛之谦"]}}',
        '{"intent": "Music-Play", "slots": {"song": "丑八怪", "artist": ["薛之谦", "洛天依"], "age": "老"}}',
        "[" * 100_000,
    ],
)
def test_anything_else_is_wrong_and_never_an_error(completion: str) -> None:
    assert process_results({"answer": ANSWER}, [completion]) == {"exact_match": 0.0}


@given(st.text())
def test_any_text_is_cleaned_to_one_line(text: str) -> None:
    assert "\n" not in clean(text)
    assert score(text, ANSWER) == 0


slots = st.dictionaries(st.text(min_size=1), st.text().filter(lambda t: " " not in t), max_size=4)


@given(st.text(), slots)
def test_an_answer_that_repeats_the_reference_is_right(intent: str, slots: dict[str, str]) -> None:
    answer = json.dumps({"intent": intent, "slots": slots})
    assert score(answer, answer) == 1
    assert score(answer, json.dumps({"intent": intent, "slots": {**slots, "more": "than that"}})) == 0


@pytest.mark.parametrize("name", ["intent_bdci.yaml", "intent_bdci_fewshot.yaml"])
def test_lm_eval_asks_in_our_format_and_scores_by_our_metric(name: str) -> None:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    rows = {"test": Dataset.from_list([{"id": "0", "prompt": "你好", "answer": ANSWER}])}
    task = ConfigurableTask(config=load_yaml(LM_EVAL.with_name(name)) | {"custom_dataset": lambda **_: rows})
    doc = next(iter(task.test_docs()))
    assert task.doc_to_text(doc) == question("你好")
    assert task.process_results(doc, [f" {ANSWER}。"]) == {"exact_match": 1.0}
    assert task.aggregation()["exact_match"]([0.0, 1.0]) == 0.5


@pytest.mark.parametrize(
    ("split", "row", "complaint"),
    [
        ("train", {"messages": [{"role": "user", "content": "a"}]}, "row 1: 'messages' must be"),
        ("train", {"messages": ["a", "b"]}, "row 1: 'messages' must be"),
        ("eval", {"prompt": "a", "raw_answers": ["b"]}, "row 1: 'prompt' must start with 'User: '"),
        ("eval", {"prompt": question("a"), "raw_answers": []}, "row 1: 'raw_answers' must hold"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, split: str, row: dict[str, object], complaint: str) -> None:
    (tmp_path / "esft_intent").mkdir()
    (tmp_path / "esft_intent" / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    read: Callable[[Source], object] = training if split == "train" else items
    with pytest.raises(TaskError, match=complaint):
        list(read(Source(tmp_path)))  # type: ignore[call-overload]
