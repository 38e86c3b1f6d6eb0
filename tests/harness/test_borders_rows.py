"""Rows of tasks, of ours and of others: refused by task, row and field, or used as they are."""

import json
import sys
from dataclasses import replace
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness import cli
from esft_bench.harness.plan import data, rows
from esft_bench.harness.store.artifacts import Store
from esft_bench.spec.errors import UserError
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.prompt import segments
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source

ITEM = {"id": "1", "prompt": "What?", "answer": "That."}
USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}

ODD_ITEMS = {
    "one id twice": ([ITEM, ITEM], "evaluation row 2, id: '1' is the id of row 1 too"),
    "a number for an id": ([ITEM | {"id": 7}], "evaluation row 1, id: Input should be a valid string"),
    "an empty id": ([ITEM | {"id": ""}], "evaluation row 1, id: String should have at least 1 character"),
    "a number for an answer": ([ITEM | {"answer": 7}], "evaluation row 1, answer: "),
    "no answer": ([ITEM | {"answer": None}], "evaluation row 1, answer: "),
    "no prompt": ([{"id": "1", "answer": ""}], "evaluation row 1, prompt: Field required"),
    "half of a surrogate pair": (
        [ITEM | {"prompt": "\ud83d"}],
        "evaluation row 1, prompt: it holds half of a surrogate",
    ),
    "half of one further in": ([ITEM | {"more": [{"x": "\ud83d"}]}], r"evaluation row 1, more\[\]\.x: it holds half"),
    "a text for an item": (["What?"], "evaluation row 1: Input should be a valid dictionary"),
    "nothing for an item": ([None], "evaluation row 1: "),
    "no choice": ([ITEM | {"choices": [], "gold": 0}], "evaluation row 1, choices: "),
    "a choice that is not there": ([ITEM | {"choices": ["a", "b"], "gold": 2}], "'gold' is 2, and there are 2 choices"),
    "a choice before the first": ([ITEM | {"choices": ["a"], "gold": -1}], "evaluation row 1, gold: "),
    "choices without gold": ([ITEM | {"choices": ["a"]}], "'choices' and 'gold' belong together"),
    "another schema": (
        [ITEM, ITEM | {"id": "2", "more": 1}],
        "evaluation row 2, more: only some items have this field",
    ),
    "another type": (
        [ITEM | {"more": 1}, ITEM | {"id": "2", "more": "1"}],
        "evaluation row 2, more: a text, and in a row before it a number",
    ),
    "another type in a list": ([ITEM | {"more": [1, "1"]}], r"evaluation row 1, more\[\]: a text, and in a row before"),
    "a set": ([ITEM | {"more": {1, 2}}], "evaluation row 1, more: input was not a valid JSON value"),
    "NaN": ([ITEM | {"more": float("nan")}], "evaluation row 1, more"),
    "a number of 5 000 digits": ([ITEM | {"more": 10**5000}], "evaluation row 1, more: it holds a number"),
}
ODD_CONVERSATIONS = {
    "a system message": [{"role": "system", "content": "Be kind."}, USER, ASSISTANT],
    "a tool": [USER, {"role": "tool", "content": "42"}, ASSISTANT],
    "a human": [{"role": "human", "content": "a"}, ASSISTANT],
    "a user alone": [USER],
    "an assistant first": [ASSISTANT, USER],
    "two answers": [USER, ASSISTANT, ASSISTANT],
    "no answer at the end": [USER, ASSISTANT, USER],
    "no message": [],
    "no text": [USER, {"role": "assistant", "content": None}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, ASSISTANT],
    "half of a surrogate pair": [USER, {"role": "assistant", "content": "ok \ud83d"}],
    "ShareGPT's fields": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
    "a text": "a conversation",
    "nothing": None,
}


@pytest.fixture
def read(tmp_path):
    """`read(training=…, items=…)`: what the plan reads of another package's task that yields these rows."""

    def run(**given):
        task = replace(load_tasks()["mini-intent"], name="tickets", training=None, items=None)
        yields: Any = {part: lambda source, found=found: iter(found) for part, found in given.items()}
        return data.materialise(replace(task, **yields), data.Reading(Source()), Store(tmp_path))

    return run


@pytest.mark.parametrize("name", list(ODD_ITEMS))
def test_odd_items_are_refused_by_task_row_and_field(read, name):
    found, sentence = ODD_ITEMS[name]
    with pytest.raises(TaskError, match=f"Task 'tickets': .*{sentence}") as refused:
        read(items=found)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", list(ODD_CONVERSATIONS))
def test_odd_conversations_are_refused_by_task_and_row(read, name):
    with pytest.raises(TaskError, match="Task 'tickets': training row 2") as refused:
        read(training=[[USER, ASSISTANT], ODD_CONVERSATIONS[name]])
    assert "\n" not in str(refused.value)


def test_what_a_task_of_others_raises_is_one_sentence_that_names_it(read):
    def broken():
        yield [USER, ASSISTANT]
        raise KeyError("text")

    with pytest.raises(TaskError, match=r"Task 'tickets': its rows cannot be read \(KeyError: 'text'\)"):
        read(training=broken())


def test_sound_rows_are_stored_as_they_are(read):
    found = [
        ITEM | {"choices": ["a", "b"], "gold": 1, "more": None},
        ITEM | {"id": "2", "choices": ["c"], "gold": 0, "more": 5},
    ]
    made = read(items=found, training=[[USER, ASSISTANT]])
    assert [json.loads(line) for line in made.items.path.read_text().splitlines()] == found
    assert json.loads(made.training.path.read_text()) == [USER, ASSISTANT]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
ITEMS = st.fixed_dictionaries(
    {"id": st.sampled_from("12345") | JSON, "prompt": st.text() | JSON, "answer": st.text() | JSON},
    optional={
        "choices": st.lists(st.text(max_size=3), max_size=3) | JSON,
        "gold": st.integers(-1, 3) | JSON,
        "more": JSON,
    },
)


@given(st.lists(ITEMS | JSON, max_size=4))
def test_any_items_are_refused_in_one_sentence_or_become_a_table_as_they_are(found):
    try:
        kept = list(rows.items(found))
    except TaskError:
        return
    json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()
    table = list(Dataset.from_list(kept)) if kept else []
    assert [(row["id"], row["prompt"], row["answer"]) for row in table] == [
        (row["id"], row["prompt"], row["answer"]) for row in found
    ]


@given(
    st.lists(
        st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["user", "assistant", "system"]) | JSON,
                    "content": st.text(st.characters()) | JSON,
                }
            ),
            max_size=5,
        )
        | JSON,
        max_size=3,
    )
)
def test_any_conversations_are_refused_in_one_sentence_or_train_on_answers_alone(found):
    try:
        kept = list(rows.conversations(found))
    except TaskError:
        return
    json.dumps(kept, ensure_ascii=False).encode()
    for conversation in kept:
        counted = [text for text, supervised in segments(conversation) if supervised]
        assert counted == [" " + message["content"] for message in conversation if message["role"] == "assistant"]


GOOD = [
    {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"It is {n}."}]}
    for n in range(9)
]
FILES = {
    "half of a surrogate pair": (
        b'{"messages":[{"role":"user","content":"\\ud83d"},{"role":"assistant","content":"b"}]}',
        "half of a surrogate",
    ),
    "NaN": (b'{"messages": NaN}', "line 1: a number that is too long, or is none"),
    "a number of 5 000 digits": (b'{"messages": ' + b"9" * 5000 + b"}", "line 1: a number that is too long"),
    "UTF-16": ('{"messages": []}'.encode("utf-16"), "line 1: not UTF-8"),
    "deep nesting": (b"[" * 100_000, "nested too deeply"),
    "one array": (json.dumps(GOOD).encode(), "must be a JSON object"),
    "system messages in every row": (
        json.dumps({"messages": [{"role": "system", "content": "Be kind."}, *GOOD[0]["messages"]]}).encode(),
        "all rows of 'alignment' were left out (1 for turns of system, user, assistant)",
    ),
    "no row": (b"", "has no rows"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_an_odd_file_of_rows_is_refused_in_one_sentence_with_exit_code_2(tmp_path, monkeypatch, capsys, name):
    content, sentence = FILES[name]
    (tmp_path / "data" / "alignment").mkdir(parents=True)
    (tmp_path / "data" / "alignment" / "train.jsonl").write_bytes(content)
    sections = ("name: odd", "tasks: [mini-intent]", "alignment: alignment-public", "methods: {base: {}}")
    (tmp_path / "suite.yaml").write_text("\n".join([*sections, "evaluation: {engine: transformers}"]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["esft-bench", "plan", "suite.yaml", "--data-dir", "data", "--no-price"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    complaint = capsys.readouterr().err
    assert (ended.value.code, len(complaint.splitlines())) == (2, 1)
    assert sentence in complaint


def test_an_error_of_the_system_is_not_taken_for_one_of_the_rows(read):
    def full():
        raise UserError("No disk space left.")
        yield

    with pytest.raises(UserError, match=r"^No disk space left\.$"):
        read(training=full())
