"""Published values stand beside ours where rows and columns are the same, and averages are not taken on trust."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from esft_bench.reports.content import gather
from esft_bench.reports.statistics.family import Family
from esft_bench.reports.tables.paper import Beside, BesideTable, judged, p_values
from esft_bench.reports.tables.published_values import published
from tests.reports.conftest import METHODS, MadeUpRun, manifest_of, report

MATH = {"gsm": "GSM8K", "maths": "Math"}


def beside_of(made: MadeUpRun, folder: Path, paper: str, **suite: object) -> list[BesideTable]:
    made.items = made.general_items = 30
    made.build(folder)
    manifest_of(folder, paper=paper, **suite)
    return list(gather(folder).backbones[0].beside)


def by_cell(table: BesideTable) -> dict[tuple[str, str], Beside]:
    return {(cell.row, cell.column): cell for cell in table.cells}


def test_every_published_average_is_right_as_its_paper_weighs_columns() -> None:
    """The one paper counts columns alike, the other by their items; how its Table 2 does is not told."""
    tables = [*published("esft").tables, *published("das").tables]
    assert not any(table.misprinted() for table in tables if table.average != "unknown")
    assert {table.source for table in tables if table.average == "unknown"} == {"expert-concentration paper, Table 2"}
    first = published("das").tables[0]
    row = first.rows["Base"]
    by_hand = (row[0] * 1319 + row[1] * 500 + row[2] * 500 + row[3] * 164) / (1319 + 500 + 500 + 164)
    assert first.mean("Base") == pytest.approx(by_hand)
    assert first.averages["Base"] == 35.45 == round(by_hand, 2)


@pytest.mark.parametrize("paper", ["esft", "das"])
def test_every_published_table_names_its_source(paper: str) -> None:
    for table in published(paper).tables:
        assert "Table" in table.source or "Figure" in table.source
        assert table.rows


def test_a_published_value_stands_beside_ours_with_the_difference(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.general = {"clue": "CLUEWSC", "mmlu": "mmlu"}
    first, second, third, costs, memory = beside_of(made_up, tmp_path, "esft")
    ours = gather(tmp_path).backbones[0].ability.frame()["Intent"]
    cell = by_cell(first)["ESFT-Gate", "Intent"]
    assert cell.published == 78.6
    assert cell.ours == pytest.approx(ours["ESFT-Gate"])
    assert cell.difference == pytest.approx(ours["ESFT-Gate"] - 78.6)
    assert by_cell(second)["FFT", "CLUEWSC"].half_width == 0.9
    assert ("FFT", "MMLU") in by_cell(second)
    assert by_cell(third)["ESFT-Token", "Intent"].published == -2.6
    assert by_cell(costs)["FFT", "Minutes"].published == 28.5
    assert by_cell(memory)["LoRA", "Peak memory, MB"].published == 30050
    assert not any(cell.column == "Avg" for cell in first.cells)
    assert any("MATH" in note and "GSM8K" in note for note in first.notes)


def test_a_difference_is_judged_among_all_comparisons_and_unknown_without_our_interval() -> None:
    cells = [Beside("FFT", "MMLU", 50.0, ours=54.0, p_value=p) for p in (1e-9, 0.04, 0.04, None)]
    table, family = BesideTable("Table 1", "made up", 1, cells), Family()
    family.join(lambda: p_values([table], "mini"))
    (found,) = judged([table], family, "mini")
    assert [cell.significant for cell in found.cells] == [True, False, False, None]
    assert Beside("FFT", "MMLU", 56.0).difference is None


def test_the_papers_own_interval_counts_against_a_difference(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.seeds = (0, 1)
    made_up.general = {"facts": "CLUEWSC"}
    cell = by_cell(beside_of(made_up, tmp_path, "esft")[1])["FFT", "CLUEWSC"]
    ours = gather(tmp_path).backbones[0].general.cells["fft", "facts"]
    runs, half = ours.runs, (ours.high - ours.low) / 2
    error = np.hypot(half / stats.t.ppf(0.975, runs - 1), 0.9 / 1.96)
    assert (cell.half_width, cell.runs) == (0.9, runs)
    assert cell.p_value == pytest.approx(2 * stats.t.sf(abs(cell.difference) / error, runs - 1), rel=1e-3)
    assert (cell.low, cell.high) == (pytest.approx(ours.low), pytest.approx(ours.high))


@pytest.mark.parametrize(("judge", "beside"), [("reference (chrF)", False), ("gpt-5.2", True)])
def test_what_a_model_judged_there_is_left_out_where_none_judged_here(
    made_up: MadeUpRun, tmp_path: Path, judge: str, beside: bool
) -> None:
    made_up.change = lambda record: record.model_copy(update={"judge": judge}) if record.judge else record
    tables = beside_of(made_up, tmp_path, "esft")
    for table in (tables[0], next(table for table in tables if "Table 3" in table.title)):
        assert any(column == "Law" for _, column in by_cell(table)) == beside
        assert any("Law" in note and "no model judged" in note for note in table.notes) != beside


FOUR = {"gsm": "GSM8K", "maths": "MATH-500", "mbpp": "MBPP", "he": "HumanEval"}


def test_averages_stand_beside_each_other_where_they_weigh_columns_alike(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.tasks = FOUR
    by_items = by_cell(beside_of(made_up, tmp_path / "items", "das", average="items")[0])["FFT", "Avg"]
    assert by_items.published == pytest.approx(43.25, abs=0.005)
    table = beside_of(made_up, tmp_path / "tasks", "das")[0]
    assert ("FFT", "Avg") not in by_cell(table)
    assert any("weigh them otherwise" in note for note in table.notes)


def test_another_backbone_than_the_papers_is_said_to_be_one(made_up: MadeUpRun, tmp_path: Path) -> None:
    first = beside_of(made_up, tmp_path, "esft")[0]
    assert any("ours is mini" in note for note in first.notes)
    made_up.change = lambda record: record.model_copy(update={"backbone": "Qwen/Qwen1.5-MoE-A2.7B"})
    made_up.tasks = MATH
    table = beside_of(made_up, tmp_path, "das")[0]
    assert by_cell(table)["FFT", "GSM8K"].published == 67.43
    assert not any("backbone" in note for note in table.notes)


def test_what_was_not_scored_here_has_no_difference_and_says_why(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: (
        record.model_copy(update={"state": "failed", "value": None, "items": "", "note": "out of memory"})
        if (record.method, record.benchmark) == ("fft", "intent")
        else record
    )
    cell = by_cell(beside_of(made_up, tmp_path, "esft")[0])["FFT", "Intent"]
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


def test_the_average_by_items_is_that_of_all_items_as_if_they_were_one_benchmark(
    made_up: MadeUpRun, tmp_path: Path
) -> None:
    made_up.items = 30
    made_up.build(tmp_path)
    whole = gather(tmp_path).backbones[0]
    column = whole.results.columns("ability")[0]
    few = {record.items for record in whole.results.records if record.benchmark == column.name}
    for name in few:  # a third of this benchmark's items
        lines = (tmp_path / name).read_text("utf-8").splitlines()[:10]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    records = (tmp_path / "results.jsonl").read_text("utf-8").splitlines()
    told = [json.loads(line) for line in records]
    for record in told:
        if record["items"] in few:
            scores = [
                json.loads(line)["score"] for line in (tmp_path / record["items"]).read_text("utf-8").splitlines()
            ]
            record |= {"n": 10, "scored": 10, "value": 100 * float(np.mean(scores))}
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in told), encoding="utf-8")
    manifest_of(tmp_path, average="items")
    one = gather(tmp_path).backbones[0]
    for row in one.ability.rows:
        scores = one.results.item_scores([row], one.results.columns("ability"), "ability")[row.name]
        expected = np.concatenate([array.ravel() for array in scores]).mean()
        average = one.average(row, "ability")
        assert one.ability.average(row).value == pytest.approx(expected)
        assert average is not None
        assert average.low <= expected <= average.high
    assert "weighs columns by their items" in one.ability.caption
