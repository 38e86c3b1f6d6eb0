"""`alignment:` as a mapping: a user's own rows, mixed into every training."""

import json
from pathlib import Path
from typing import Any

import pytest

from esft_bench.harness.commands.look import look
from esft_bench.harness.commands.options import LookOptions, SuiteOptions
from esft_bench.harness.commands.prepare import prepare
from esft_bench.harness.terminal import Terminal
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.suite import Suite
from esft_bench.spec.suite_file import load
from esft_bench.tasks.errors import TaskError

CHAT = [{"messages": [{"role": "user", "content": f"Hello {n}"}, {"role": "assistant", "content": f"{n}!"}]}
        for n in range(40)]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with labelled texts and conversations, and a suite that describes the ones and mixes in the others."""
    monkeypatch.chdir(tmp_path)
    write("reviews.jsonl", [{"text": f"Film {n}", "label": ("bad", "good")[n % 2]} for n in range(60)])
    write("chat.jsonl", CHAT)
    return tmp_path


def write(name: str, rows: list[Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def suite(mixed_in: str, tasks: str = "[{name: reviews, files: reviews.jsonl}]") -> str:
    Path("suite.yaml").write_text(
        f"name: s\nmethods:\n  base: {{}}\n  fft: {{}}\ntasks: {tasks}\nalignment: {mixed_in}\n"
    )
    return "suite.yaml"


def planned(mixed_in: str, tasks: str = "[{name: reviews, files: reviews.jsonl}]") -> Any:
    return prepare(SuiteOptions(suite=suite(mixed_in, tasks), engine="transformers"))


def test_all_rows_that_are_described_are_mixed_into_every_training_and_none_is_tested_on(here: Path) -> None:
    made = planned("{files: chat.jsonl}")
    data = made.plan.data["alignment"]
    assert read_jsonl(data.training.path) == [row["messages"] for row in CHAT]
    assert (data.items, data.count) == (None, 0)
    trainings = [path.training for cell, path in made.plan.paths.items() if cell.method == "fft"]
    assert [training.alignment for training in trainings] == [data.training]
    assert not any("alignment" in made.plan.matrix.benchmarks(cell) for cell in made.plan.cells)
    assert "alignment, mixed in: chat (messages from 'messages'); 40 rows." in made.notes


def test_columns_prompt_name_and_title_are_those_of_any_task(here: Path) -> None:
    write("faq.jsonl", [{"topic": f"t{n}", "said": f"s{n}", "other": 1} for n in range(5)])
    made = planned('{name: faq, title: FAQ, files: faq.jsonl, prompt: "On {topic}:", columns: {answer: said}}')
    rows = read_jsonl(made.plan.data["faq"].training.path)
    assert rows[0] == [{"role": "user", "content": "On t0:"}, {"role": "assistant", "content": "s0"}]
    assert made.plan.suite.alignment == "faq"


def test_a_suite_that_was_read_says_the_same_when_it_is_written_and_read_again(here: Path) -> None:
    read = load(suite("{files: chat.jsonl, split: all}"))
    assert Suite.model_validate(read.model_dump(mode="json")) == read
    assert (read.alignment, read.own_alignment) == ("alignment", "alignment")


def test_a_task_that_is_tested_on_and_mixed_in_keeps_its_test_rows_to_itself(here: Path) -> None:
    made = planned("reviews")
    assert made.plan.suite.own_alignment is None
    assert made.plan.data["reviews"].items is not None


def test_the_command_line_mixes_rows_into_what_it_makes_of_a_file(here: Path, capsys: Any) -> None:
    made = prepare(SuiteOptions(data=["reviews.jsonl"], engine="transformers", set=["alignment={files: chat.jsonl}"]))
    assert made.plan.suite.own_alignment == "alignment"
    look(LookOptions(data=["reviews.jsonl"], set=["alignment={files: chat.jsonl}"]), Terminal())
    assert "alignment, mixed in: chat (messages from 'messages'); 40 rows." in " ".join(capsys.readouterr().out.split())


def test_rows_that_cannot_be_used_are_left_out_and_named(here: Path) -> None:
    write("chat.jsonl", [*CHAT, {"messages": []}])
    made = planned("{files: chat.jsonl}")
    assert any("1 rows were left out: chat.jsonl, line 41: " in note for note in made.notes)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("{files: chat.jsonl, metric: rouge}", "leave out `metric`"),
        ("{files: chat.jsonl, test_share: 0.5}", "leave out `test_share`"),
        ("{hub: a/b}", "give the `revision`"),
        ("{files: chat.jsonl, colour: red}", r"suite.yaml, line 6, alignment.colour: "),
        ("{name: mini-law, files: chat.jsonl}", "called as one that is installed is"),
        ("{name: reviews, files: chat.jsonl}", "two tasks are called 'reviews'"),
        ("[chat.jsonl]", r"suite.yaml, line 6, alignment: Input should be a valid string"),
        ("{files: none.jsonl}", "none.jsonl: there is no such file"),
        ("{files: same.jsonl}", "every answer is \"yes\""),
        ("{files: bad.jsonl}", "Task 'alignment': no row can be trained on. bad.jsonl, line 1: "),
        ("{files: chat.jsonl, columns: {answer: none}}", "there is no column 'none' for answer"),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_in_is_one_sentence(here: Path, said: str, sentence: str) -> None:
    write("same.jsonl", [{"prompt": f"q{n}", "completion": "yes"} for n in range(9)])
    write("bad.jsonl", [{"prompt": "", "completion": "yes"}, {"prompt": "q", "completion": " "}])
    with pytest.raises((UserError, TaskError), match=sentence):
        planned(said)


def test_a_test_that_stands_in_what_is_mixed_in_ends_the_run_and_some_of_it_is_a_note(here: Path) -> None:
    with pytest.raises(UserError, match=r"alignment: (\d+) of the \1 questions of reviews stand in the data"):
        planned("{files: reviews.jsonl}")
    questions = {item["prompt"] for item in read_jsonl(planned("{files: chat.jsonl}").plan.data["reviews"].items.path)}
    write(
        "some.jsonl", [*CHAT, {"messages": [{"role": "user", "content": sorted(questions)[0]}, CHAT[0]["messages"][1]]}]
    )
    made = planned("{files: some.jsonl}")
    told = f"1 of the {len(questions)} questions of reviews stand in the data that are mixed in (alignment)."
    assert any(told in note for note in made.notes)
