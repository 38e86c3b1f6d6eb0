"""Files that people have, in all their forms, and what is said of those that are broken."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from esft_bench.harness.plan.data import Reading, materialise
from esft_bench.harness.store.artifacts import Store
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.own import OwnTask
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.own.data import examples, read
from esft_bench.tasks.own.task import make
from esft_bench.tasks.source import Source

ROWS = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}"} for n in range(40)]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def saved(path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(str(path))


def folder(path: Path) -> None:
    path.mkdir()
    (path / "a.jsonl").write_bytes(lines(ROWS[:20]))
    (path / "deeper").mkdir()
    (path / "deeper" / "b.csv").write_text(pandas.DataFrame(ROWS[20:]).to_csv(index=False))
    (path / "readme.txt").write_text("no rows")


KINDS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda path: path.write_bytes(lines(ROWS)),
    "rows.ndjson": lambda path: path.write_bytes(b"\xef\xbb\xbf" + lines(ROWS)),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "wrapped.json": lambda path: path.write_text(json.dumps({"version": "1.0", "data": ROWS})),
    "lines.json": lambda path: path.write_bytes(lines(ROWS)),
    "rows.csv": lambda path: pandas.DataFrame(ROWS).to_csv(path, index=False),
    "excel.csv": lambda path: pandas.DataFrame(ROWS).to_csv(path, index=False, sep=";", encoding="utf-8-sig"),
    "rows.tsv": lambda path: pandas.DataFrame(ROWS).to_csv(path, index=False, sep="\t"),
    "rows.parquet": lambda path: pandas.DataFrame(ROWS).to_parquet(path),
    "rows.feather": lambda path: pandas.DataFrame(ROWS).to_feather(path),
    "saved": saved,
    "folder": folder,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_has_the_same_rows(tmp_path: Path, name: str) -> None:
    KINDS[name](tmp_path / name)
    found = read(OwnTask(name="own", files=[str(tmp_path / name)]))
    rows = [(row.asked[-1]["content"], row.text) for side in found.sound for row in side]
    assert sorted(rows) == sorted((row["question"], row["answer"]) for row in ROWS)


def test_an_arrow_file_of_datasets_is_read_and_labels_have_their_names(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_list([{"text": f"t{n}", "label": n % 2} for n in range(40)], features)
    rows.save_to_disk(str(tmp_path / "saved"))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    for path in (tmp_path / "saved", arrow, tmp_path / "rows.parquet"):
        assert read(OwnTask(name="own", files=[str(path)])).classes == ("no", "yes")


TURN = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
PAIR = {"prompt": "Say it", "completion": "It"}
BAD_ROWS: dict[str, tuple[Any, str]] = {
    "no JSON": (b'{"prompt": "x"\n', "line 31: not valid JSON"),
    "not UTF-8": (b'{"prompt": "\xff", "completion": "x"}\n', "line 31: not UTF-8 at byte"),
    "half of a surrogate pair": (
        b'{"prompt": "\\ud83d", "completion": "x"}\n',
        "line 31: it holds half of a surrogate",
    ),
    "NaN": (b'{"prompt": "x", "completion": NaN}\n', "line 31: a number that is too long, or is none"),
    "infinity": (b'{"prompt": "x", "completion": Infinity}\n', "line 31: a number that is too long, or is none"),
    "an array": ([1, 2], "line 31: a row must be a JSON object"),
    "a text": ("text", "line 31: a row must be a JSON object"),
    "nothing": (None, "line 31: a row must be a JSON object"),
    "an empty object": ({}, "line 31: 'prompt' is missing"),
    "no answer": ({"prompt": "x"}, "line 31: the answer is missing"),
    "null for an answer": ({"prompt": "x", "completion": None}, "line 31: the answer is missing"),
    "an empty answer": ({"prompt": "x", "completion": ""}, "line 31: its answer is empty"),
    "an answer of spaces": ({"prompt": "x", "completion": " \n\t"}, "line 31: its answer is empty"),
    "an empty question": ({"prompt": " ", "completion": "x"}, "line 31: its question is empty"),
    "no answers": ({"prompt": "x", "completion": []}, "line 31: it has no answer"),
    "an object for a question": ({"prompt": {"a": 1}, "completion": "x"}, "line 31: 'prompt' must be a text, found"),
    "10 MB": ({"prompt": "x" * 10_000_000, "completion": "y"}, "line 31: it has 10,000,001 characters, more than"),
    "deep nesting": (b"[" * 100_000 + b"\n", "line 31: JSON nested too deeply"),
    "a number of 5 000 digits": (b'{"prompt": ' + b"9" * 5000 + b"}\n", "line 31: a number that is too long"),
    "a noncharacter": ({"prompt": "a\ufdd0b", "completion": "x"}, r"line 31, 0\.content: it holds U\+FDD0"),
    "a lone NUL": (b"\x00\n", "line 31: not valid JSON"),
}
BAD_TURNS: dict[str, tuple[Any, str]] = {
    "no list": ({"messages": 7}, "line 31: its messages must be a list, found 7"),
    "no messages": ({"messages": []}, r"line 31: its messages must be a list, found \[\]"),
    "a stranger": ({"messages": [{"role": "alien", "content": "a"}, TURN[1]]}, 'line 31: message 1 is from "alien"'),
    "nobody": ({"messages": [{"content": "a"}, TURN[1]]}, "line 31: message 1 is from null"),
    "no text": ({"messages": [TURN[0], {"role": "assistant", "content": None}]}, "line 31: message 2 has no text"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, TURN[1]]},
        "line 31: message 1 has no text but",
    ),
    "no answer at the end": ({"messages": [*TURN, TURN[0]]}, "line 31: its messages must end with the assistant's"),
    "an answer alone": ({"messages": [TURN[1]]}, "line 31: nothing stands before the answer"),
    "two answers": ({"messages": [*TURN, TURN[1]]}, "line 31: its messages must take turns, user first"),
    "a system message": (
        {"messages": [{"role": "system", "content": "s"}, *TURN]},
        "line 31: the prompt format `release` has no place for messages of the role 'system'",
    ),
    "tools": ({"messages": TURN, "tools": [{"type": "function"}]}, "line 31: .* has no place for tools"),
    "texts for tools": ({"messages": TURN, "tools": ["sum"]}, "line 31: its tools must be a list of objects"),
    "a message that is a text": ({"messages": ["a", "b"]}, "line 31: message 1 is no object"),
}


def written(folder: Path, good: Callable[[int], Any], bad: Any) -> OwnTask:
    """A file of thirty good rows, a bad one and nine more good ones."""
    row = bad if isinstance(bad, bytes) else lines([bad])
    rows = [lines([good(n)]) for n in range(39)]
    (folder / "rows.jsonl").write_bytes(b"".join([*rows[:30], row, *rows[30:]]))
    return OwnTask(name="own", files=[str(folder / "rows.jsonl")])


def stored(folder: Path, task: OwnTask) -> Any:
    """What the plan makes of a task."""
    return materialise(make(task), Reading(Source()), Store(folder / "store"))


def pair(number: int) -> Any:
    return {"prompt": f"Say {number}", "completion": f"It is {number}"}


def talk(number: int) -> Any:
    return {"messages": [{"role": "user", "content": f"Say {number}"}, {"role": "assistant", "content": f"{number}"}]}


@pytest.mark.parametrize("name", [*BAD_ROWS, *BAD_TURNS])
def test_a_bad_row_is_left_out_and_named_with_file_and_row(tmp_path: Path, name: str) -> None:
    bad, sentence = (BAD_ROWS | BAD_TURNS)[name]
    data = stored(tmp_path, written(tmp_path, pair if name in BAD_ROWS else talk, bad))
    assert len(read_jsonl(data.training.path)) + data.count == 39
    assert re.search(rf"1 rows were left out: .*rows\.jsonl, {sentence}", data.note)
    assert "\n" not in data.note
    assert stored(tmp_path, OwnTask(name="own", files=[str(tmp_path / "rows.jsonl")])) == data  # as it was noted


def test_a_file_of_many_bad_rows_is_refused_with_the_first_of_them(tmp_path: Path) -> None:
    rows = [{**pair(n), **({"completion": ""} if n % 4 == 0 else {})} for n in range(40)]
    (tmp_path / "rows.jsonl").write_bytes(lines(rows))
    with pytest.raises(TaskError, match=r"10 of 40 rows cannot be used, the first: .*, line 1: its answer is empty"):
        stored(tmp_path, OwnTask(name="own", files=[str(tmp_path / "rows.jsonl")]))


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "nothing": ("rows.jsonl", b"", "the file is empty"),
    "blank lines": ("rows.jsonl", b"\n\n\n", "there is no row in it"),
    "UTF-16": ("rows.csv", pandas.DataFrame(ROWS).to_csv(index=False).encode("utf-16"), "line 1: not UTF-8 at byte 1"),
    "Latin-1": ("rows.csv", "text,label\na,b\ncaf\xe9,c\n".encode("latin-1"), "line 3: not UTF-8 at byte"),
    "UTF-16 lines": ("rows.jsonl", lines(ROWS).decode().encode("utf-16"), "line 1: not UTF-8"),
    "a column too many": ("rows.csv", b"text,label\na,b\nc,d,e\n", "no table can be made of it .*line 3, saw 3"),
    "an open quote": ("rows.csv", b'text,label\na,"b\nc,d\n', "no table can be made of it"),
    "one name twice": ("rows.csv", b"text,text,label\na,b,c\n", "two columns are called 'text'"),
    "a header alone": ("rows.csv", b"text,label\n", "there is no row in it"),
    "no parquet": ("rows.parquet", b"PAR1 no more", "no table can be read from it"),
    "no arrow": ("rows.arrow", b"ARROW1", "no table can be read from it"),
    "a spreadsheet": ("rows.xlsx", b"PK", r"no file of this kind is read; save it as one of \.jsonl"),
    "a text": ("rows.txt", b"hello", "no file of this kind is read"),
    "an object of two arrays": ("rows.json", b'{"a": [], "b": []}', "must hold one array of objects"),
    "half of an array": ("rows.json", b'[{"prompt": "a"', "not valid JSON"),
    "a number": ("rows.json", b"7", "must hold one array of objects"),
    "unknown columns": ("rows.csv", b"a,b\n1,2\n", r"no known form has the columns 'a', 'b'; say which is which"),
    "one column": ("rows.csv", b"text\na\n", "no known form has the columns 'text'"),
    "one class": ("rows.csv", b"text,label\n" + b"".join(b"t%d,yes\n" % n for n in range(40)), 'every answer is "yes"'),
    "one row": ("rows.jsonl", lines(ROWS[:1]), "no row can be trained on|none is held out to test on"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_use_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    file, content, sentence = BAD_FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=sentence) as refused:
        stored(tmp_path, OwnTask(name="own", files=[str(tmp_path / file)]))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_file_that_is_not_there_and_a_folder_without_rows_are_refused(tmp_path: Path) -> None:
    for path, sentence in ((tmp_path / "none.csv", "no such file or folder"), (tmp_path, r"holds none of \.jsonl")):
        with pytest.raises(TaskError, match=sentence):
            make(OwnTask(name="own", files=[str(path)]))


def test_test_rows_that_are_training_rows_end_it_or_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(ROWS))
    (tmp_path / "test.jsonl").write_bytes(lines([*ROWS[:2], *[{"question": f"Q{n}", "answer": "A"} for n in range(8)]]))
    task = OwnTask(name="own", files=[str(tmp_path / "rows.jsonl")], test=[str(tmp_path / "test.jsonl")])
    assert "2 of the 10 questions that are tested on are trained on too." in make(task).note
    assert len(examples(read(task).test)) == 10
    with pytest.raises(TaskError, match="40 of the 40 questions to test on are trained on too"):
        make(task.model_copy(update={"test": task.files}))
