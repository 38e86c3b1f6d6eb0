"""Files that are sound at first sight: labels that may be one, structures, archives, folders of unlike files."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from esft_bench.spec.errors import UserError
from esft_bench.spec.own import OwnTask
from esft_bench.tasks.own.data import read
from tests.tasks.test_own_files import ROWS, TURN, folder, lines, stored

LABELS: dict[str, tuple[list[Any], str]] = {
    "cases": (["Yes", "no", "yes"], 'may be the same are classes of their own: "Yes" and "yes"'),
    "kinds of numbers": (["1.0", "2", "1"], 'may be the same are classes of their own: "1" and "1.0"'),
    "numbers and booleans": ([1, 0, True], 'may be the same are classes of their own: "1" and "true"'),
    "NaN in words": (["a", "nan", "b"], 'may stand for a missing one is a class: "nan"'),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_doubtful_are_named(tmp_path: Path, name: str) -> None:
    labels, sentence = LABELS[name]
    rows = [{"text": f"Text {n}", "label": labels[n % 3]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_bytes(lines(rows))
    assert sentence in " ".join(read(OwnTask(name="own", files=[str(tmp_path / "rows.jsonl")])).remarks)


def test_numbers_to_be_predicted_are_said_to_be_no_classes_and_sound_labels_are_not_remarked_on(tmp_path: Path) -> None:
    for name, label in (("numbers", lambda n: n * 0.37), ("classes", lambda n: ["1", "2", "-1", "b"][n % 4])):
        rows = [{"text": f"Text {n}", "label": label(n)} for n in range(300)]
        (tmp_path / f"{name}.jsonl").write_bytes(lines(rows))
    told = {
        name: read(OwnTask(name="own", files=[str(tmp_path / f"{name}.jsonl")])).remarks
        for name in ("numbers", "classes")
    }
    assert "300 rows have 300 labels: these are hardly classes" in " ".join(told["numbers"])
    assert told["classes"] == []


NESTED = pyarrow.table({"q": [{"text": f"Q{n}", "lang": "en"} for n in range(40)], "answer": ["A"] * 40})
NO_TEXTS = pyarrow.table({"text": pyarrow.nulls(40, pyarrow.string()), "label": ["a", "b"] * 20})


def unlike(path: Path) -> None:
    folder(path)
    (path / "c.csv").write_text("text,label\n" + "a,b\n" * 40)


TRICKY: dict[str, tuple[str, Callable[[Path], Any], dict[str, str], str]] = {
    "a comma after each line": (
        "rows.jsonl",
        lambda path: path.write_text("".join(json.dumps(row) + ",\n" for row in ROWS)),
        {},
        "line 1: not valid JSON",
    ),
    "a structure for a question": (
        "rows.parquet",
        lambda path: parquet.write_table(NESTED, path),
        {"prompt": "q"},
        "row 1: 'q' must be a text, found {",
    ),
    "texts that are all null": (
        "rows.parquet",
        lambda path: parquet.write_table(NO_TEXTS, path),
        {},
        "row 1: 'text' is missing",
    ),
    "a cut archive": (
        "rows.jsonl.gz",
        lambda path: path.write_bytes(gzip.compress(lines(ROWS))[:-20]),
        {},
        "no file of this kind is read",
    ),
    "a folder called x.csv": ("x.csv", lambda path: path.mkdir(), {}, "the folder holds none of"),
    "a folder of unlike files": (
        "mixed",
        unlike,
        {},
        r"40 of 80 rows cannot be used, the first: .*c\.csv, row 1: 'question' is missing",
    ),
    "talks that end with the user": (
        "rows.jsonl",
        lambda path: path.write_bytes(lines([{"messages": [*TURN, TURN[0]]}] * 40)),
        {},
        "line 1: its messages must end with the assistant's",
    ),
}


@pytest.mark.parametrize("name", TRICKY)
def test_a_tricky_file_is_refused_with_the_row(tmp_path: Path, name: str) -> None:
    file, write, columns, sentence = TRICKY[name]
    write(tmp_path / file)
    with pytest.raises(UserError, match=sentence) as refused:
        stored(tmp_path, OwnTask(name="own", files=[str(tmp_path / file)], columns=columns))
    assert "\n" not in str(refused.value)


def test_line_ends_in_quotes_blanks_after_labels_and_a_folder_of_parts_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    text = "".join(f'"Text {n}\r\nand ""more""",{"a" if n % 2 else "b"}{"  " * (n % 3)}\r\n' for n in range(60))
    (tmp_path / "x.csv" / "part-0.csv").write_bytes(f"text,label\r\n{text}".encode("utf-8-sig"))
    found = read(OwnTask(name="own", files=[str(tmp_path / "x.csv")]))
    assert found.classes == ("a", "b")
    assert all('\r\nand "more"' in row.asked[-1]["content"] for side in found.sound for row in side)
