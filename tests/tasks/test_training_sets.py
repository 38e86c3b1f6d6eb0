"""Training sets: rows of the right form become conversations, and what does not belong is left out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esft_bench.tasks import translation_chren
from esft_bench.tasks.alignment_public import MOST, is_math_or_code
from esft_bench.tasks.errors import MissingDataError, TaskError
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.sieve import Sieve
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Conversation, turn

Write = Callable[..., Source]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("opencoder/train", row, …)` writes that file and returns the source that reads it."""

    def to(name: str, *rows: Any) -> Source:
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Source(tmp_path)

    return to


def trained_on(name: str, source: Source) -> list[Conversation]:
    training = load_tasks()[name].training
    assert training is not None
    return list(training(source))


def sieved(name: str, source: Source) -> Source:
    """The source with all of a task's filters on."""
    filters = load_tasks()[name].filters
    return replace(source, sieve=Sieve({each: make(source) for each, make in filters.items()}))


def test_real_rows_of_metamath_become_conversations(shared_data: Path) -> None:
    conversations = trained_on("metamathqa", Source(shared_data))
    assert len(conversations) == 5
    assert all("The answer is: " in answer["content"] for _, answer in conversations)


def test_real_sums_are_trained_on_as_they_are_tested(shared_data: Path) -> None:
    source = Source(shared_data)
    conversations = trained_on("gsm8k-train", source)
    assert len(conversations) == 1000
    tested = next(iter(load_tasks()["gsm8k"].items(source)))  # type: ignore[misc]  # it has items
    for asked, answered in conversations[:5]:  # the examples before every tested question
        assert f"{asked['content']} {answered['content']}" in tested["prompt"]


def test_an_instruction_is_followed_by_its_input_if_it_has_one(write: Write) -> None:
    rows = [{"instruction": "Add.", "input": given, "output": "x"} for given in ("", "1 2")]
    source = write("codealpaca/train", *rows)
    assert [asked["content"] for asked, _ in trained_on("codealpaca", source)] == ["Add.", "Add.\n\n1 2"]
    with pytest.raises(TaskError, match=r"codealpaca.train\.jsonl, line 1: field 'input' is missing"):
        trained_on("codealpaca", write("codealpaca/train", {"instruction": "Add.", "output": "x"}))


def test_real_verdicts_become_conversations(shared_data: Path) -> None:
    conversations = trained_on("law-bdci", Source(shared_data))
    assert len(conversations) == 927
    assert all(question["content"].endswith("判决是：") for question, _ in conversations)
    assert all(answer["content"].endswith("。\n\n") for _, answer in conversations)


def test_translations_are_asked_as_they_are_tested(shared_data: Path) -> None:
    conversations = trained_on("translation-chren", Source(shared_data))
    items = list(translation_chren.items(Source(shared_data)))
    assert len(conversations) == 1000
    for text in [item["prompt"] for item in items] + [turns[0]["content"] for turns in conversations]:
        assert text.startswith(translation_chren.START)
        assert text.endswith(translation_chren.END)
        assert text.count(translation_chren.START) == 1


def test_the_released_translations_come_before_chrens(write: Write) -> None:
    write("chren/train", {"sentence_pair": {"en": "a dog", "chr": "ᎩᏟ"}})
    source = write("esft_translation/train", {"messages": turn("Translate", "released\n\n")})
    assert trained_on("translation-chren", source) == [turn("Translate", "released\n\n")]


def test_a_translation_without_its_english_is_named(write: Write) -> None:
    source = write("chren/train", {"sentence_pair": {"en": "a dog", "chr": "ᎩᏟ"}}, {"sentence_pair": {"chr": "ᎩᏟ"}})
    with pytest.raises(TaskError, match="chren, split 'train', row 2: 'sentence_pair' must hold"):
        trained_on("translation-chren", source)


def test_missing_training_data_say_which_file_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "chren").mkdir()
    for name in ("translation-chren", "summary-bdci", "evol-codealpaca", "opencoder", "metamathqa", "alignment-public"):
        with pytest.raises(MissingDataError, match=r"Looked for .*train\.jsonl"):
            trained_on(name, Source(tmp_path))


def test_an_instruction_and_its_code_become_a_conversation(write: Write) -> None:
    source = write("evol_codealpaca/train", {"instruction": "Add two numbers.", "output": "```python\na + b\n```"})
    assert trained_on("evol-codealpaca", source) == [turn("Add two numbers.", "```python\na + b\n```")]


def test_opencoder_keeps_the_first_tested_valid_row_of_an_instruction(write: Write) -> None:
    good: dict[str, Any] = {
        "instruction": "Add.",
        "output": "```python\ndef add(a, b): return a + b\n```",
        "code": "def add(a, b): return a + b",
        "entry_point": "add",
        "testcase": ["assert add(1, 1) == 2"],
    }
    changes: list[dict[str, Any]] = [
        {},
        {"output": "a second answer to the same instruction"},
        {"instruction": "no tests", "testcase": []},
        {"instruction": "no Python", "code": "def add(:"},
        {"instruction": "another name", "entry_point": "subtract"},
        {"instruction": "a class", "code": "class Adder: pass", "entry_point": "Adder"},
    ]
    source = write("opencoder/train", *(good | change for change in changes))
    assert len(trained_on("opencoder", source)) == len(changes)
    kept = trained_on("opencoder", sieved("opencoder", source))
    assert [question["content"] for question, _ in kept] == ["Add.", "a class"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("ai2-adapt-dev/numinamath_tir_math_decontaminated", "hello"),
        ("ai2-adapt-dev/evol_codealpaca_heval_decontaminated", "hello"),
        ("", "```\nx\n```"),
        ("", "Write a Python function that sorts a list."),
        ("", "def f(x):\n    return x"),
        ("", "so \\boxed{3}"),
        ("", "Calculate the area."),
    ],
)
def test_math_and_code_are_left_out_of_the_alignment_set(source: str, text: str) -> None:
    assert is_math_or_code(turn(text, "yes"), source)
    assert is_math_or_code(turn("please", text), source)


@pytest.mark.parametrize("text", ["What is the capital of France?", "请写一首关于春天的诗。", "Imports rose."])
def test_plain_instructions_stay_in_the_alignment_set(text: str) -> None:
    assert not is_math_or_code(turn(text, "Paris, in class of its own."), "ai2-adapt-dev/no_robots_converted")


def test_only_conversations_that_take_turns_are_trained_on(write: Write) -> None:
    def said(*roles: str) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": role} for role in roles]}

    rows = [
        said("user", "assistant"),
        said("system", "user", "assistant"),
        said("user", "assistant", "user"),
        said("user", "assistant", "user", "assistant"),
        said(),
    ]
    kept = trained_on("alignment-public", write("alignment/train", *rows))
    assert [len(conversation) for conversation in kept] == [2, 4]


def test_a_large_alignment_set_is_thinned_evenly(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST > 10_000
    monkeypatch.setattr("esft_bench.tasks.alignment_public.MOST", 4)
    source = write("alignment/train", *({"messages": turn(f"say {n}", "no")} for n in range(9)))
    assert [each[0]["content"] for each in trained_on("alignment-public", source)] == ["say 0", "say 3", "say 6"]


def test_a_message_of_another_form_is_named(write: Write) -> None:
    source = write("alignment/train", {"messages": turn("a", "b")}, {"messages": ["a", "b"]})
    with pytest.raises(TaskError, match="alignment, split 'train', row 2: 'messages' must be a list of objects"):
        trained_on("alignment-public", source)
