"""The tables say what the records say, and nothing where the records say nothing."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from esft_bench.reports.backbone_results import BackboneResults
from esft_bench.reports.comparisons import Comparisons
from esft_bench.reports.content import gather
from esft_bench.reports.tables.ablation import ablation_table
from esft_bench.reports.tables.costs import efficiency_table
from esft_bench.reports.tables.scores import ability_table, general_table
from esft_bench.reports.tables.table import Table
from esft_bench.reports.tables.view import score_entry, view
from esft_bench.spec.record import Record
from tests.reports.conftest import METHODS, MadeUpRun, manifest_of, report


def results_of(made: MadeUpRun, folder: Path) -> BackboneResults:
    return BackboneResults(made.build(folder), folder, manifest_of(folder))


def cells(table: Table) -> dict[tuple[str, str], object]:
    return dict(table.cells)


def test_table_1_has_the_suites_order_the_records_values_and_their_average(made_up: MadeUpRun, tmp_path: Path) -> None:
    results = results_of(made_up, tmp_path)
    table = ability_table(Comparisons(results))
    assert [row.name for row in table.rows] == list(METHODS)
    assert [column.name for column in table.columns] == ["intent", "law", "translation", ""]
    values = {
        record.benchmark: record.value
        for record in results.records
        if record.method == "fft" and record.role == "ability"
    }
    frame = table.frame()
    assert frame.T["FFT"].tolist() == pytest.approx([*values.values(), np.mean(list(values.values()))])


def test_the_mean_over_seeds_is_what_table_1_shows(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.seeds = (0, 1, 2)
    results = results_of(made_up, tmp_path)
    values = [r.value for r in results.records if (r.method, r.benchmark) == ("lora", "intent")]
    cell = ability_table(Comparisons(results)).cells["lora", "intent"]
    assert (cell.value, cell.runs) == (pytest.approx(np.mean(values)), 3)


def test_table_2_has_the_t_interval_over_all_training_runs_and_none_for_the_base(
    made_up: MadeUpRun, tmp_path: Path
) -> None:
    made_up.seeds = (0, 1)
    results = results_of(made_up, tmp_path)
    table = general_table(Comparisons(results))
    values = [r.value for r in results.records if (r.method, r.benchmark) == ("fft", "facts")]
    low, high = stats.t.interval(0.95, 5, loc=np.mean(values), scale=stats.sem(values))
    cell = table.cells["fft", "facts"]
    assert (cell.value, cell.low, cell.high, cell.runs) == (
        pytest.approx(np.mean(values)),
        pytest.approx(low),
        pytest.approx(high),
        6,
    )
    assert table.cells["base", "facts"].low is None
    assert table.cells["fft", ""].low is not None


def test_a_single_training_run_has_no_interval_and_the_caption_says_so(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.tasks = {"intent": "Intent"}
    table = general_table(Comparisons(results_of(made_up, tmp_path)))
    assert table.cells["fft", "facts"].low is None
    assert "no interval" in table.caption


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_table_3_is_random_minus_the_row_it_ablates(made_up: MadeUpRun, tmp_path: Path, seeds: tuple[int, ...]) -> None:
    made_up.seeds = seeds
    results = results_of(made_up, tmp_path)
    first, third = ability_table(Comparisons(results)).frame(), ablation_table(Comparisons(results))
    assert [row.title for row in third.rows] == ["Random (Token) − ESFT-Token", "Random (Gate) − ESFT-Gate"]
    expected = first.T["Random (Token)"] - first.T["ESFT-Token"]
    assert third.frame().iloc[0].tolist() == pytest.approx(expected.tolist())
    cell = third.cells["random-token", ""]
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < cell.value < cell.high < 0  # type: ignore[operator]
    assert cell.mark == "significant"


def test_a_row_of_table_3_carries_its_own_title_whatever_its_experts_are(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: (
        record.model_copy(update={"method_title": "Unrelated experts"}) if record.ablates == "esft-token" else record
    )
    made_up.build(tmp_path)
    third = gather(tmp_path).backbones[0].ablation
    assert [row.title for row in third.rows] == ["Unrelated experts − ESFT-Token", "Random (Gate) − ESFT-Gate"]
    text = report(tmp_path)
    assert "Unrelated experts − ESFT-Token: −" in text
    assert "random experts" not in text.lower()


def test_what_failed_is_missing_with_its_reason_and_takes_the_average_with_it(
    made_up: MadeUpRun, tmp_path: Path
) -> None:
    def fail(record: Record) -> Record:
        if (record.method, record.task, record.benchmark) != ("lora", "law", "law"):
            return record
        return record.model_copy(update={"state": "failed", "value": None, "items": "", "note": "out of memory"})

    made_up.change = fail
    table = ability_table(Comparisons(results_of(made_up, tmp_path)))
    assert table.cells["lora", "law"].value is None
    assert table.cells["lora", "law"].note == "failed: out of memory"
    assert table.cells["lora", ""].value is None
    assert table.cells["lora", "intent"].value is not None
    assert math.isnan(table.frame()["Law"]["LoRA"])


def test_a_failure_before_anything_was_judged_still_gives_its_reason(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: (
        record.model_copy(update={"state": "failed", "value": None, "metric": "bypass", "judge": "", "note": "crashed"})
        if (record.method, record.benchmark) == ("fft", "law")
        else record
    )
    table = ability_table(Comparisons(results_of(made_up, tmp_path)))
    assert table.cells["fft", "law"].note == "failed: crashed"
    assert table.cells["lora", "law"].value is not None


def test_what_is_not_there_yet_is_missing_in_every_table(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: None if record.method == "random-gate" and record.task == "intent" else record
    results = results_of(made_up, tmp_path)
    assert ability_table(Comparisons(results)).cells["random-gate", "intent"].note == "not finished"
    assert ablation_table(Comparisons(results)).cells["random-gate", "intent"].note == "not finished"
    assert ablation_table(Comparisons(results)).cells["random-gate", "law"].value is not None
    assert general_table(Comparisons(results)).cells["random-gate", "facts"].note == "2 of 3 runs"


def test_a_method_that_has_not_begun_is_a_row_of_its_own(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: None if record.method == "esft-gate" else record
    table = ability_table(Comparisons(results_of(made_up, tmp_path)))
    assert [row.title for row in table.rows][4] == "ESFT-Gate"
    assert table.cells["esft-gate", "law"].value is None


def test_short_coverage_is_shown_and_neither_bold_nor_compared(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.unscored = lambda record, index: record.method == "fft" and record.benchmark == "law" and index % 5 == 0
    table = ability_table(Comparisons(results_of(made_up, tmp_path)))
    cell = table.cells["fft", "law"]
    assert cell.coverage == pytest.approx(0.8)
    assert cell.mark == ""
    assert cell.value is not None
    assert cell.value > 60  # unscored items are not zeros
    assert table.cells["fft", ""].coverage == pytest.approx(0.8)
    assert table.cells["fft", "intent"].coverage is None


def test_a_few_unscored_items_do_not_keep_a_row_from_being_compared(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.unscored = lambda record, index: record.method == "fft" and record.benchmark == "law" and index < 3
    table = ability_table(Comparisons(results_of(made_up, tmp_path)))
    assert table.cells["fft", "law"].coverage is None
    assert table.cells["fft", "law"].mark == "best"


def test_rows_judged_by_different_judges_are_not_compared(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: (
        record.model_copy(update={"judge": "gpt-5.2"}) if record.judge and record.method == "random-token" else record
    )
    results = results_of(made_up, tmp_path)
    table = ability_table(Comparisons(results))
    law = next(column for column in table.columns if column.name == "law")
    assert law.mixed
    assert {table.cells[row.name, "law"].mark for row in table.rows} == {""}
    assert {table.cells[row.name, "intent"].mark for row in table.rows} >= {"best"}
    assert ablation_table(Comparisons(results)).cells["random-token", "law"].value is None


def test_the_order_of_the_records_changes_nothing(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.seeds = (0, 1)
    records = made_up.build(tmp_path)
    shuffled = random.Random(3).sample(records, len(records))
    orders = [BackboneResults(each, tmp_path, manifest_of(tmp_path)) for each in (records, shuffled)]
    for make in (ability_table, general_table, ablation_table):
        assert cells(make(Comparisons(orders[0]))) == cells(make(Comparisons(orders[1])))


def test_costs_are_means_over_cells_and_the_base_has_none(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: (
        record.model_copy(update={"value": 120.0})
        if (record.method, record.task, record.metric) == ("fft", "intent", "train_seconds")
        else record
    )
    table = efficiency_table(results_of(made_up, tmp_path))
    assert table.cells["fft", "train_seconds"].value == pytest.approx((120 + 12 + 12) / 3 / 60)
    assert table.cells["fft", "stored_bytes"].value == pytest.approx(2.5)
    assert table.cells["base", "train_seconds"].note == "not trained"


def test_a_table_that_the_suite_asks_for_compares_its_rows_among_themselves(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    asked = {"title": "Table 5. Ways to identify experts", "rows": ["random-token", "random-gate"], "role": "ability"}
    manifest_of(tmp_path, tables=[asked])
    (backbone,) = gather(tmp_path).backbones
    (table,) = backbone.further
    assert [row.name for row in table.rows] == asked["rows"]
    assert table.frame().equals(backbone.ability.frame().loc[["Random (Token)", "Random (Gate)"]])
    assert "best" not in {backbone.ability.cells["random-gate", "intent"].mark}
    assert table.cells["random-gate", "intent"].mark == "best"
    assert f"## {asked['title']}" in report(tmp_path)


def test_what_nothing_was_trained_for_is_no_column_and_takes_no_average_away(
    made_up: MadeUpRun, tmp_path: Path
) -> None:
    made_up.change = lambda record: None if record.task == "law" else record
    records = made_up.build(tmp_path)
    untold, told = (
        ability_table(
            Comparisons(
                BackboneResults(records, tmp_path, manifest_of(tmp_path, tasks=["intent", "translation"], **more))
            )
        )
        for more in ({}, {"tested_only": ["law"]})
    )
    assert [column.name for column in told.columns] == ["intent", "translation", ""]
    assert [column.name for column in untold.columns] == ["intent", "translation", "law", ""]
    assert not math.isnan(told.frame().T["FFT"].iloc[-1])
    assert math.isnan(untold.frame().T["FFT"].iloc[-1])


def test_the_average_of_one_column_is_shown_once_and_known_all_the_same(tmp_path: Path) -> None:
    made = MadeUpRun(methods=["base", "fft"], tasks={"law": "Law"}, general={"facts": "Facts"}, items=30)
    results = results_of(made, tmp_path)
    table = ability_table(Comparisons(results))
    shown = view(table, score_entry)
    assert [head.title for head in shown.heads] == ["Law"]
    assert "Avg" not in shown.caption + shown.remark
    assert f"of {table.outcomes['law'].pairs} pairs" in shown.remark or "All 1 pairs" in shown.remark
    row = table.rows[1]
    assert table.average(row).value == table.cells[row.name, "law"].value
