"""The first table and figure of a report: curves at equal gain; further points of curves change nothing else."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.figures.gallery import gallery
from esft_bench.reports.forms import EQUAL_GAIN, write_reports
from esft_bench.reports.html.report import render as page
from tests.reports.conftest import MadeUpRun, in_words, report

RATES = (0.25, 0.5, 1.0)


@pytest.fixture
def curves(tmp_path):
    """A run of three rows with curves of three points."""
    MadeUpRun(methods=("base", "fft", "esft-gate", "random-gate"), rates=RATES).build(tmp_path)
    return tmp_path


def test_tables_1_to_3_show_the_rows_themselves_whatever_points_there_are(curves, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone")
    MadeUpRun(methods=("base", "fft", "esft-gate", "random-gate")).build(alone)
    with_points, without = (gather(folder).backbones[0] for folder in (curves, alone))
    for name in ("ability", "general", "ablation", "efficiency"):
        both = (getattr(report, name) for report in (with_points, without))
        told, untold = (replace(table, detectable={}) for table in both)  # readings join what is compared in a report
        assert told == untold
    assert with_points.samples == without.samples
    assert len(gather(curves).records) > len(gather(alone).records)


def test_the_first_table_reads_forgetting_at_equal_gain(curves):
    text, html = report(curves), page(gather(curves))
    assert text.index("## Forgetting at equal gain") < text.index("## Table 1.")
    assert html.index('id="forgetting-at-equal-gain"') < html.index('id="at-a-glance"')
    table = text[text.index("## Forgetting at equal gain") :]
    assert "| FFT " in table
    assert "Intent (+" in table


def test_a_row_that_never_gains_so_much_is_said_not_to_reach_it(curves):
    seen = gather(curves).backbones[0].equal_gain
    cell = next(one for one in seen.tables if one.least).table.cells["random-gate", "intent"]
    assert cell.value is None
    assert cell.note.startswith("not reached")


def test_a_row_without_all_points_is_not_read_and_the_others_are(tmp_path):
    def lost(record):
        return None if (record.method, record.task, record.rate) == ("fft", "law", 0.5) else record

    MadeUpRun(methods=("base", "fft", "lora", "esft-gate"), rates=RATES, change=lost).build(tmp_path)
    table = gather(tmp_path).backbones[0].equal_gain.tables[0].table
    assert table.cells["fft", "law"].note == "not every point of its curve is finished"
    assert table.cells["fft", "intent"].value is not None
    assert table.cells["lora", "law"].value is not None
    assert table.cells["fft", ""].value is None


def test_the_figure_of_curves_comes_first_and_has_a_line_a_point(curves):
    drawn = gallery(gather(curves)).drawn[0]
    assert drawn.name == "gain-against-forgetting"
    with drawn.csv.open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 3 * 3 * (3 + 1)
    assert {row["rate"] for row in rows} == {"0.25", "0.5", "1"}
    assert "Mean over tasks" in drawn.svg.read_text()


def test_the_advice_reads_curves_and_names_no_ablation(curves):
    advice = gather(curves).backbones[0].advice
    assert all(one.at_equal_gain for one in advice.tasks)
    for one in advice.tasks:
        assert "General ability lost at a gain of" in in_words(one)
        assert "random-gate" not in [row.name for row in one.candidates]
        assert one.pick is None or one.pick in one.candidates


def test_a_run_of_one_rate_says_what_would_be_needed(made_up, tmp_path):
    made_up.build(tmp_path)
    backbone = gather(tmp_path).backbones[0]
    assert backbone.curve_views() == []
    assert "curve: {rates: [0.25, 0.5, 1]}" in backbone.without_curves
    assert "36 more cells" in backbone.without_curves
    assert "nothing can be read at equal gain" in report(tmp_path)
    drawn = gallery(gather(tmp_path)).drawn[0]
    assert "One point a row" in drawn.caption
    assert not any(one.at_equal_gain for one in backbone.advice.tasks)


def test_readings_are_written_as_csv_and_taken_away_where_there_are_none(curves):
    write_reports(curves, draw=False)
    with (curves / EQUAL_GAIN).open() as lines:
        rows = list(csv.DictReader(lines))
    shown = {(row["read"], row["method"], row["task"]): row for row in rows}
    reached = shown["forgetting at equal gain", "fft", "intent"]
    assert float(reached["low"]) <= float(reached["estimate"]) <= float(reached["high"])
    assert shown["forgetting at equal gain", "random-gate", "intent"]["estimate"] == ""
    manifest = curves / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0.25, 0.5, 1.0", "1.0"))
    (curves / "results.jsonl").write_text(
        "".join(line + "\n" for line in (curves / "results.jsonl").read_text().splitlines() if '"rate": 1.0' in line)
    )
    write_reports(curves, draw=False)
    assert not (curves / EQUAL_GAIN).exists()


def test_several_seeds_are_read_together(tmp_path):
    MadeUpRun(methods=("base", "fft", "esft-gate"), rates=RATES, seeds=(0, 1, 2)).build(tmp_path)
    seen = gather(tmp_path).backbones[0].equal_gain
    assert {cell.runs for cell in seen.tables[0].table.cells.values() if cell.value is not None} == {3}


def test_while_the_base_model_is_not_tested_on_a_task_the_others_are_read(curves):
    kept = [json.loads(line) for line in (curves / "results.jsonl").read_text().splitlines()]
    task = next(record["benchmark"] for record in kept if record["method"] == "base" and record["role"] == "ability")
    left = [record for record in kept if (record["method"], record["benchmark"]) != ("base", task)]
    (curves / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in left))
    seen = gather(curves).backbones[0].equal_gain
    (curves_seen,) = (seen.curves[measure.name] for measure in seen.measures if measure.name in seen.curves)
    whole = {one for one, gains in zip(curves_seen.tasks, curves_seen.gains, strict=True) if np.isfinite(gains).all()}
    assert whole == {*curves_seen.tasks} - {task}
    assert curves_seen.tasks[1:]


def test_points_that_are_multiples_of_steps_are_called_so(curves):
    manifest = curves / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rates": [', '"steps": ['))
    assert "over 3 multiples of its number of steps, read between their points" in report(curves)
    assert "over the multiples of its number of steps that were trained" in gallery(gather(curves)).drawn[0].caption
