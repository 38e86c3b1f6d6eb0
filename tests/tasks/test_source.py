import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.tasks.errors import MissingDataError, TaskError
from esft_bench.tasks.source import Address, Dataset, Row, Source

TOY = Dataset(hub="nobody/toy", revision="0" * 40, folder="toy")
FIELDS: dict[str, type] = {"question": str}
WriteSplit = Callable[..., Path]


def read(folder: Path, limit: int | None = None, required: dict[str, type] = FIELDS) -> list[Row]:
    return list(Source(folder, limit).rows(TOY, "test", required))


def complaint(folder: Path, required: dict[str, type] = FIELDS) -> str:
    with pytest.raises(TaskError) as caught:
        read(folder, required=required)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_rows_come_back_as_they_were_written(write_split: WriteSplit) -> None:
    rows = [{"question": "一加一？", "extra": [1, {"a": None}]}, {"question": "b"}]
    assert read(write_split(*rows)) == rows


def test_limit_keeps_the_first_rows(write_split: WriteSplit) -> None:
    folder = write_split(*({"question": str(n)} for n in range(5)))
    assert [row["question"] for row in read(folder, limit=2)] == ["0", "1"]


def test_blank_lines_and_a_byte_order_mark_are_no_rows(write_split: WriteSplit) -> None:
    folder = write_split(raw=b'\xef\xbb\xbf{"question": "a"}\n\n  \n{"question": "b"}')
    assert [row["question"] for row in read(folder)] == ["a", "b"]


def test_broken_json_names_file_and_line(write_split: WriteSplit) -> None:
    message = complaint(write_split(raw=b'{"question": "a"}\n\n{"question": \n'))
    assert "test.jsonl, line 3: not valid JSON" in message


def test_bytes_that_are_not_utf8_name_file_and_line(write_split: WriteSplit) -> None:
    message = complaint(write_split(raw=b'{"question": "a"}\n{"question": "\xff"}\n'))
    assert "test.jsonl, line 2: not UTF-8" in message


def test_a_missing_field_names_the_field_and_what_is_there(write_split: WriteSplit) -> None:
    message = complaint(write_split({"question": "a"}, {"quesiton": "b"}))
    assert "line 2: field 'question' is missing; the row has 'quesiton'" in message


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [(str, 1, "a whole number"), (int, True, "true or false"), (list, "x", "a string"), (dict, None, "null")],
)
def test_a_wrong_type_says_what_was_expected_and_found(
    write_split: WriteSplit, kind: type, value: Any, found: str
) -> None:
    message = complaint(write_split({"question": value}), {"question": kind})
    assert "line 1: field 'question' must be" in message
    assert message.endswith(f"found {found}.")


def test_a_whole_number_is_a_number(write_split: WriteSplit) -> None:
    assert read(write_split({"question": 3}), required={"question": float}) == [{"question": 3}]


def test_a_row_that_is_no_object_is_refused(write_split: WriteSplit) -> None:
    assert "line 1: a row must be a JSON object, found a list" in complaint(write_split([1, 2]))


def test_an_empty_split_is_refused(write_split: WriteSplit) -> None:
    assert "Split 'test' of data set 'toy' has no rows" in complaint(write_split(raw=b"\n"))


def test_a_missing_data_folder_says_what_it_should_hold(tmp_path: Path) -> None:
    message = complaint(tmp_path / "nowhere")
    assert "nowhere does not exist" in message
    assert str(Path("toy") / "test.jsonl") in message


def test_a_data_folder_without_the_data_set_lists_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    message = complaint(tmp_path)
    assert str(Path("toy") / "test.jsonl") in message
    assert "gsm8k" in message


def test_a_missing_split_lists_the_files_there(write_split: WriteSplit) -> None:
    folder = write_split({"question": "a"})
    with pytest.raises(TaskError, match=r"dev\.jsonl.*test\.jsonl"):
        list(Source(folder).rows(TOY, "dev", FIELDS))


def test_an_unreachable_hub_explains_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TaskError, match=r"FOLDER/toy/test\.jsonl and pass --data-dir FOLDER") as caught:
        next(Source().rows(TOY, "test", FIELDS))
    assert "\n" not in str(caught.value)


def test_the_hub_path_reads_a_repository_of_plain_files(
    tmp_path: Path, write_split: WriteSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = write_split({"question": "a"}, {"question": "b"})
    files = {"test": str(folder / "toy" / "test.jsonl")}
    plain = Dataset(hub="json", revision="main", folder="toy", hub_files=files)
    assert list(Source(limit=1).rows(plain, "test", FIELDS)) == [{"question": "a"}]
    with pytest.raises(TaskError, match="row 1: field 'answer' is missing"):
        next(Source().rows(plain, "test", {"answer": str}))


def test_a_missing_revision_says_where_to_name_one(tmp_path: Path) -> None:
    unpinned = Dataset(hub="nobody/toy", revision=None, folder="toy")
    with pytest.raises(MissingDataError, match=r"no pinned revision; name the commit in the suite, `data: \{toy:") as e:
        next(Source().rows(unpinned, "test", FIELDS))
    assert "pass --data-dir FOLDER" in str(e.value)


def test_another_repository_needs_a_revision_of_its_own() -> None:
    source = Source(addresses={"toy": Address(hub="somebody/else")})
    with pytest.raises(MissingDataError, match="'somebody/else' has no pinned revision"):
        next(source.rows(TOY, "test", FIELDS))


def test_the_suites_address_comes_before_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load_dataset(name: str, config: str | None, **more: object) -> list[Row]:
        asked.append((name, config, more["revision"]))
        return [{"question": "a"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    many = Dataset("nobody/toy", "a" * 40, "toy", configs=("law", "art"), config_field="subject")
    rows = list(Source().rows(many, "test", {"question": str, "subject": str}))
    assert [row["subject"] for row in rows] == ["law", "art"]
    assert list(Source(addresses={"toy": Address(revision="b" * 40)}).rows(many, "test", FIELDS))
    assert list(Source(addresses={"toy": Address("some/body", "c" * 40)}).rows(many, "test", FIELDS))
    assert asked == [
        ("nobody/toy", "law", "a" * 40),
        ("nobody/toy", "art", "a" * 40),
        ("nobody/toy", "law", "b" * 40),
        ("nobody/toy", "art", "b" * 40),
        ("some/body", None, "c" * 40),
    ]


def test_a_split_may_have_another_file_name(write_split: WriteSplit) -> None:
    folder = write_split({"question": "a"})
    named = Dataset("nobody/toy", None, "toy", files={"validation": ("validation", "test")})
    assert list(Source(folder).rows(named, "validation", FIELDS)) == [{"question": "a"}]
    assert Source(folder).has(named, "validation")
    assert not Source(folder).has(named, "train")


def test_of_many_rows_an_even_share_is_taken_from_file_and_hub(
    write_split: WriteSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": str(n)} for n in range(10)]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    for source in (Source(write_split(*rows)), Source()):
        assert [row["question"] for row in source.rows(TOY, "test", FIELDS, most=4)] == ["0", "3", "6", "9"]
        assert len(list(source.rows(TOY, "test", FIELDS, most=10))) == 10


def test_a_field_may_have_one_of_several_types(write_split: WriteSplit) -> None:
    folder = write_split({"question": 3}, {"question": "3"}, {"question": None})
    read = Source(folder).rows(TOY, "test", {"question": (str, int)})
    assert [row["question"] for row in islice(read, 2)] == [3, "3"]
    with pytest.raises(TaskError, match="line 3: field 'question' must be a string or a whole number, found null"):
        next(read)


@given(st.binary(max_size=60))
def test_any_bytes_give_rows_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "toy").mkdir()
    (folder / "toy" / "test.jsonl").write_bytes(content)
    try:
        rows = read(folder)
    except TaskError:
        return
    assert all(isinstance(row["question"], str) for row in rows)
    assert json.dumps(rows)
