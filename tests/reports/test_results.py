"""Results on disk: what is written comes back, and what is not sound is left out by name."""

import json
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet

from esft_bench.reports.content import gather
from esft_bench.spec.errors import UserError
from esft_bench.spec.record import Record
from esft_bench.spec.results import check_run, columns, read, read_items, write
from tests.reports.conftest import MadeUpRun


def lines_of(folder: Path) -> list[str]:
    return (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()


def test_written_records_come_back_as_they_were(made_up: MadeUpRun, tmp_path: Path) -> None:
    records = made_up.build(tmp_path)
    found = read(tmp_path)
    assert found.left_out == []
    assert found.records == records
    assert len(pd.read_csv(tmp_path / "results.csv")) == len(records)


def test_writing_leaves_nothing_else_behind_and_replaces_what_was_there(made_up: MadeUpRun, tmp_path: Path) -> None:
    records = made_up.build(tmp_path / "run")
    write(records[:3], tmp_path / "other")
    write(records[:2], tmp_path / "other")
    names = sorted(path.name for path in (tmp_path / "other").iterdir())
    assert names == ["results.csv", "results.jsonl", "results.parquet"]
    assert len(read(tmp_path / "other").records) == 2


def test_a_half_written_line_is_skipped_and_its_number_is_told(made_up: MadeUpRun, tmp_path: Path) -> None:
    records = made_up.build(tmp_path)
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    found = read(tmp_path)
    assert len(found.records) == len(records) - 1
    assert [f"line {len(records)}" in sentence for sentence in found.left_out] == [True]


def test_repeated_records_count_once_and_of_contradictory_ones_the_last(made_up: MadeUpRun, tmp_path: Path) -> None:
    records = made_up.build(tmp_path)
    other = records[0].model_copy(update={"value": 99.0})
    write([*records, records[1], other], tmp_path)
    found = read(tmp_path)
    assert len(found.records) == len(records)
    assert found.records[-1].value == 99.0
    assert any("repeated" in sentence for sentence in found.left_out)
    assert any("contradicted" in sentence for sentence in found.left_out)


def test_records_of_another_schema_version_are_left_out_and_named(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    lines = lines_of(tmp_path)
    future = json.loads(lines[0]) | {"schema_version": 7, "unheard_of": 1}
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join([*lines[1:], json.dumps(future), "[1]", "null"]) + "\n", encoding="utf-8")
    found = read(tmp_path)
    assert len(found.records) == len(lines) - 1
    assert any("schema version 7" in sentence for sentence in found.left_out)
    assert any("2 unreadable" in sentence for sentence in found.left_out)


def test_a_folder_without_results_gives_no_records_and_says_so(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.records == []
    assert len(found.left_out) == 1


def test_a_folder_of_runs_named_in_place_of_one_is_refused_with_their_names(made_up: MadeUpRun, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "reviews"
    made_up.build(run)
    check_run(run)
    with pytest.raises(UserError, match=f"holds no results.jsonl: name the folder of a run, e.g. {run}."):
        check_run(run.parent)


def test_items_come_back_without_broken_lines_and_a_line_separator_inside_a_text_is_text(
    made_up: MadeUpRun, tmp_path: Path
) -> None:
    record = next(record for record in made_up.build(tmp_path) if record.items)
    path = tmp_path / record.items
    lines = path.read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0]) | {"completion": "one\u2028two"}
    lines[0] = json.dumps(first, ensure_ascii=False)
    path.write_text("\n".join([*lines, '{"id": "half']), encoding="utf-8")
    items = read_items(tmp_path, record)
    assert len(items) == record.n
    assert items[0].completion == "one\u2028two"


def test_items_outside_the_run_folder_are_not_read(made_up: MadeUpRun, tmp_path: Path) -> None:
    record = next(record for record in made_up.build(tmp_path / "run") if record.items)
    (tmp_path / "secret.jsonl").write_text((tmp_path / "run" / record.items).read_text(encoding="utf-8"))
    assert read_items(tmp_path / "run", record.model_copy(update={"items": "../secret.jsonl"})) == []
    assert read_items(tmp_path / "run", record.model_copy(update={"items": ""})) == []
    (tmp_path / "run" / "items" / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    assert read_items(tmp_path / "run", record.model_copy(update={"items": "items/link.jsonl"})) == []


def test_parquet_has_the_columns_of_the_csv_with_their_meaning(made_up: MadeUpRun, tmp_path: Path) -> None:
    records = made_up.build(tmp_path)
    schema = parquet.read_schema(tmp_path / "results.parquet")
    assert {field.name: field.metadata[b"description"].decode() for field in schema} == columns()
    rows = pd.read_parquet(tmp_path / "results.parquet").astype(object)
    assert [Record.model_validate(row) for row in rows.where(rows.notna(), None).to_dict("records")] == records
    assert str(schema.field("value").type) == "double"


def test_the_documented_columns_are_those_of_a_record_in_its_order() -> None:
    page = Path(__file__).parents[2] / "docs" / "results.md"
    listed = page.read_text(encoding="utf-8").partition("| column | meaning |")[2].partition("\n\n")[0]
    table = [row.split(" | ") for row in listed.splitlines() if row.startswith("| `")]
    assert {cells[0].strip("|` "): cells[1].rstrip("| ") for cells in table} == columns()
    assert [cells[0].strip("|` ") for cells in table] == list(columns())
    assert all(meaning and meaning != "None" for meaning in columns().values())


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (lambda lines: None, "have no items in the run folder"),
        (lambda lines: lines[:-7], "more or fewer scored items"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "more or fewer scored items"),
        (lambda lines: [json.dumps(json.loads(one) | {"score": 0.5}) for one in lines], "another value than the mean"),
    ],
)
def test_items_that_contradict_their_record_are_named(made_up: MadeUpRun, tmp_path: Path, fault, sentence) -> None:
    record = next(record for record in made_up.build(tmp_path) if record.method == "fft")
    path = tmp_path / record.items
    lines = fault(path.read_text(encoding="utf-8").splitlines())
    path.unlink() if lines is None else path.write_text("\n".join(lines), encoding="utf-8")
    left_out = gather(tmp_path).left_out
    assert len(left_out) == 1
    assert left_out[0].startswith("1 record(s)")
    assert sentence in left_out[0]
    assert record.items in left_out[0]
