"""Published values stand beside ours where rows and columns are the same, and averages are not taken on trust."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.tables.paper import Beside, BesideTable, published
from tests.reports.conftest import METHODS, MadeUpRun, manifest_of, report

MATH = {"gsm": "GSM8K", "maths": "Math"}


def beside_of(made: MadeUpRun, folder: Path, paper: str, **suite: object) -> list[BesideTable]:
    made.items = made.general_items = 30
    made.build(folder)
    manifest_of(folder, paper=paper, **suite)
    return list(gather(folder).backbones[0].beside)


def by_cell(table: BesideTable) -> dict[tuple[str, str], Beside]:
    return {(cell.row, cell.column): cell for cell in table.cells}


def test_the_averages_of_one_paper_are_the_means_of_its_columns_and_of_the_other_are_not() -> None:
    assert not any(table.misprinted() for table in published("esft").tables)
    assert all(set(table.misprinted()) == set(table.rows) for table in published("das").tables)


@pytest.mark.parametrize("paper", ["esft", "das"])
def test_every_published_table_names_its_source(paper: str) -> None:
    for table in published(paper).tables:
        assert "Table" in table.source
        assert table.rows


def test_a_published_value_stands_beside_ours_with_the_difference(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.general = {"clue": "CLUEWSC", "mmlu": "mmlu"}
    first, second, third = beside_of(made_up, tmp_path, "esft")
    ours = gather(tmp_path).backbones[0].ability.frame()["Law"]
    cell = by_cell(first)["ESFT-Gate", "Law"]
    assert cell.published == 49.1
    assert cell.ours == pytest.approx(ours["ESFT-Gate"])
    assert cell.difference == pytest.approx(ours["ESFT-Gate"] - 49.1)
    assert by_cell(second)["FFT", "CLUEWSC"].half_width == 0.9
    assert ("FFT", "MMLU") in by_cell(second)
    assert by_cell(third)["ESFT-Token", "Translation"].published == -13.5
    assert not any(cell.column == "Avg" for cell in first.cells)
    assert any("MATH" in note and "GSM8K" in note for note in first.notes)


def test_a_difference_is_significant_beyond_both_uncertainties_and_unknown_without_ours() -> None:
    near = Beside("FFT", "MMLU", 50.0, half_width=3.0, ours=54.0, low=50.5, high=57.5)
    assert near.significant is False  # 4 < (3.5² + 3²)^½
    assert Beside("FFT", "MMLU", 50.0, ours=54.0, low=50.5, high=57.5).significant is True
    assert Beside("FFT", "MMLU", 56.0, ours=54.0, low=50.5, high=57.5).significant is False
    assert Beside("FFT", "MMLU", 56.0, ours=54.0).significant is None
    assert Beside("FFT", "MMLU", 56.0).difference is None


def test_where_the_papers_average_is_not_the_mean_of_its_columns_both_are_given(
    made_up: MadeUpRun, tmp_path: Path
) -> None:
    made_up.tasks = {"gsm": "GSM8K", "maths": "Math", "mbpp": "MBPP", "he": "HumanEval"}
    first = beside_of(made_up, tmp_path, "das")[0]
    cell = by_cell(first)["FFT", "Avg"]
    assert cell.published == pytest.approx(np.mean([55.34, 15.00, 42.60, 34.15]))
    note = next(note for note in first.notes if note.startswith("FFT"))
    assert "43.25" in note
    assert "36.77" in note
    assert "43.25" in report(tmp_path)


def test_another_backbone_than_the_papers_is_said_to_be_one(made_up: MadeUpRun, tmp_path: Path) -> None:
    first = beside_of(made_up, tmp_path, "esft")[0]
    assert any("ours is mini" in note for note in first.notes)
    made_up.change = lambda record: record.model_copy(update={"backbone": "Qwen/Qwen1.5-MoE-A2.7B"})
    made_up.tasks = MATH
    (table,) = beside_of(made_up, tmp_path, "das")
    assert by_cell(table)["FFT", "GSM8K"].published == 67.43
    assert not any("backbone" in note for note in table.notes)


def test_what_was_not_scored_here_has_no_difference_and_says_why(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: (
        record.model_copy(update={"state": "failed", "value": None, "items": "", "note": "out of memory"})
        if (record.method, record.benchmark) == ("fft", "law")
        else record
    )
    cell = by_cell(beside_of(made_up, tmp_path, "esft")[0])["FFT", "Law"]
    assert (cell.ours, cell.difference, cell.significant) == (None, None, None)
    assert "out of memory" in cell.why


def test_a_suite_that_is_no_papers_has_no_such_section(made_up: MadeUpRun, tmp_path: Path) -> None:
    assert beside_of(made_up, tmp_path, "") == []
    assert "Beside the paper" not in report(tmp_path)


def test_a_zero_of_all_items_has_an_interval_that_stays_within_the_scale(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.skill = {**made_up.skill, "base": -5.0}
    cells = by_cell(beside_of(made_up, tmp_path, "esft")[0])
    cell = cells["Base", "Intent"]
    assert cell.low is not None
    assert cell.high is not None
    assert 0 <= cell.low <= (cell.ours or 0.0) <= cell.high <= 100


def one_task_of_two_benchmarks(made: MadeUpRun, benchmarks: Mapping[str, str], folder: Path, *, named: bool) -> None:
    """Cells trained on `sums`, which has no items of its own; a record for each of its benchmarks."""
    made.tasks, made.items, made.general_items = benchmarks, 20, 10
    made.change = lambda record: (
        record.model_copy(update={"task": "sums"})
        if record.task == "gsm" or (record.task == "maths" and record.role == "ability")
        else (None if record.task == "maths" else record)
    )
    made.build(folder)
    manifest = made.manifest()
    manifest["suite"]["tasks"] = ["sums"]
    manifest |= {"benchmarks": {"sums": list(benchmarks)}} if named else {}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("named", [True, False])
def test_training_data_without_items_of_its_own_has_a_column_for_each_benchmark_it_names(
    made_up: MadeUpRun, tmp_path: Path, named: bool
) -> None:
    one_task_of_two_benchmarks(made_up, MATH, tmp_path, named=named)
    table = gather(tmp_path).backbones[0].ability
    assert [column.title for column in table.columns] == ["GSM8K", "Math", "Avg"]
    assert not table.frame().isna().any().any()
    assert len(table.rows) == len(METHODS)
