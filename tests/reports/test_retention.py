"""What later training leaves of earlier tasks, from the records alone."""

from pathlib import Path

import pytest

from esft_bench.reports.backbone_results import BackboneResults
from esft_bench.reports.manifest import Manifest, stored_suite
from esft_bench.reports.tables.retention import retention_table
from esft_bench.spec.record import Record

SUITE = {"methods": {"fft": {}, "later": {"continues": "fft", "after": ["law"]}}, "tasks": ["law", "math"]}


def record(method: str, task: str, role: str, value: float | None, **more: object) -> Record:
    about = {"run": "r", "suite": "s", "backbone": "b", "method": method, "method_title": method, "metric": "em"}
    fields = {**about, "task": task, "seed": 0, "benchmark": "law", "benchmark_title": "Law", "role": role, **more}
    return Record.model_validate({**fields, "value": value})


def results(*records: Record) -> BackboneResults:
    return BackboneResults(records, Path("none"), Manifest(stored_suite(SUITE)[0]))


def test_the_ratio_is_to_the_other_rows_own_score_with_the_same_seed() -> None:
    table = retention_table(
        results(
            record("fft", "law", "ability", 80.0),
            record("fft", "law", "ability", 50.0, seed=1),
            record("later", "math", "retained", 60.0, after="law"),
            record("later", "math", "retained", 50.0, after="law", seed=1),
            record("later", "math", "ability", 90.0, benchmark="math", benchmark_title="Math"),
        )
    )
    assert table is not None
    assert [row.name for row in table.rows] == ["later"]
    assert [column.title for column in table.columns] == ["Law", "Avg"]
    assert table.cells["later", ""].value == pytest.approx(100 * (60 + 50) / (80 + 50))
    assert table.cells["later", "law"].value == pytest.approx((75.0 + 100.0) / 2)


def test_a_score_of_zero_before_gives_no_ratio_and_no_table_is_made_where_no_row_goes_on() -> None:
    before = record("fft", "law", "ability", 0.0)
    table = retention_table(results(before, record("later", "math", "retained", 60.0, after="law")))
    assert table is not None
    assert table.cells["later", "law"].value is None
    assert "none above 0 before" in table.cells["later", "law"].note
    assert "no average" in table.cells["later", ""].note
    assert retention_table(results(before)) is None
