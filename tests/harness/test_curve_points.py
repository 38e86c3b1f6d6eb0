"""A row as a curve: its points are cells at multiples of its learning rate, and the row itself stays what it was."""

from pathlib import Path
from typing import Any

import pytest

from esft_bench.harness.commands.where import where
from esft_bench.harness.plan.plan import Plan
from esft_bench.spec import results
from esft_bench.spec.cell import Cell
from esft_bench.spec.errors import UserError
from esft_bench.spec.record import Record
from tests.harness.plans import prepared

SUITE = """\
name: tiny
tasks: [mini-law, mini-intent]
general: [mini-facts]
drift: [mini-text, mini-own-answers]
alignment: mini-alignment
methods:
  base: {}
  fft: {learning_rate: 1.0e-3}
  das-tune: {learning_rate: 2.0e-3, first_learning_rate: 4.0e-3}
evaluation: {engine: transformers, max_length: 512}
"""
CURVE = SUITE + "curve: {rates: [0.5, 0.25]}\n"


def rates_of(plan: Plan, row: str) -> dict[float, list[float]]:
    """The learning rates of all stages, by point."""
    found = {}
    for cell, path in plan.paths.items():
        if cell.method == row:
            found[cell.rate] = [stage.training.learning_rate for stage in path.training.whole]
    return found


def test_each_row_is_trained_at_multiples_of_its_rate_and_the_base_model_once(tmp_path: Path) -> None:
    plan = prepared(tmp_path, CURVE).plan
    assert rates_of(plan, "fft") == {1.0: [1e-3], 0.25: [0.25e-3], 0.5: [0.5e-3]}
    assert [cell for cell in plan.cells if not cell.task] == [Cell("base", "", 0)]
    assert len({cell.file_name for cell in plan.cells}) == len(plan.cells) == 1 + 2 * 2 * 3


def test_both_stages_of_a_method_are_multiplied(tmp_path: Path) -> None:
    assert rates_of(prepared(tmp_path, CURVE).plan, "das-tune")[0.5] == [2e-3, 1e-3]


def test_the_row_itself_is_the_very_steps_that_it_is_without_a_curve(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    without, with_curve = prepared(tmp_path, SUITE).plan, prepared(tmp_path / "with", CURVE).plan
    for cell, path in without.paths.items():
        assert with_curve.paths[cell].last == path.last


def test_only_chooses_points_by_their_multiple(tmp_path: Path) -> None:
    chosen = prepared(tmp_path, CURVE, only="method=fft,rate=0.5,rate=1").chosen
    assert {(cell.method, cell.rate) for cell in chosen} == {("fft", 0.5), ("fft", 1.0)}
    with pytest.raises(UserError, match=r"--only rate=0.75.*no such rate"):
        prepared(tmp_path, CURVE, only="rate=0.75")


def test_a_rate_is_positive_and_stands_once(tmp_path: Path) -> None:
    for rates in ("[0]", "[-1]", "[0.5, 0.5]", "[2000]"):
        with pytest.raises(UserError, match=r"curve\.rates"):
            prepared(tmp_path, SUITE + f"curve: {{rates: {rates}}}\n")


def test_all_models_are_held_against_answers_that_the_base_model_drew_once(tmp_path: Path) -> None:
    plan = prepared(tmp_path, CURVE).plan
    samples = {path.scores["mini-own-answers"].needs["samples"] for path in plan.paths.values()}
    assert len(samples) == 1
    base = plan.paths[Cell("base", "", 0)].training
    assert list(next(iter(samples)).needs.values()) == [base]


def test_a_measure_of_drift_is_no_benchmark_and_the_other_way_round(tmp_path: Path) -> None:
    general = SUITE.replace("general: [mini-facts]\ndrift: [mini-text, ", "general: [mini-text]\ndrift: [")
    with pytest.raises(UserError, match=r"general: task 'mini-text' does not measure scores"):
        prepared(tmp_path, general)
    with pytest.raises(UserError, match=r"drift: task 'mini-facts' does not measure how far"):
        prepared(tmp_path, SUITE.replace("general: [mini-facts]\ndrift: [", "drift: [mini-facts, "))


def test_a_divergence_needs_the_base_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add the row `base"):
        prepared(tmp_path, SUITE.replace("  base: {}\n", ""))


def test_the_way_back_is_that_of_the_point_that_is_asked_for(tmp_path: Path) -> None:
    about: dict[str, Any] = {
        "run": "r",
        "suite": "s",
        "backbone": "mini",
        "method": "fft",
        "method_title": "FFT",
        "task": "law",
    }
    about |= {
        "seed": 0,
        "benchmark": "law",
        "benchmark_title": "Law",
        "role": "ability",
        "metric": "acc",
    }
    records = [
        Record(**about, value=value, rate=rate, items=f"items/{rate}.jsonl", source="answers/none")
        for rate, value in ((1.0, 90.0), (0.5, 80.0))
    ]
    run = tmp_path / "run"
    results.write(records, run)
    assert results.read(run).records == records
    assert next(iter(where(run, "fft", "law"))).what == "Law, seed 0: 90.00"
    assert next(iter(where(run, "fft", "law", rate=0.5))).what == "Law, seed 0, curve × 0.5: 80.00"
    with pytest.raises(UserError, match=r"no results of fft on law at 0.25 of its learning rate"):
        list(where(run, "fft", "law", rate=0.25))


def test_a_curve_may_go_over_steps_with_each_stage_s_share_of_them(tmp_path: Path) -> None:
    plan = prepared(tmp_path, SUITE + "training: {steps: 40}\ncurve: {steps: [0.25, 0.5]}\n").plan
    assert {rate for row in ("fft", "das-tune") for rate in rates_of(plan, row)} == {0.25, 0.5, 1.0}
    assert rates_of(plan, "fft") == {1.0: [1e-3], 0.25: [1e-3], 0.5: [1e-3]}
    found = {
        (cell.method, cell.rate): [stage.training.steps for stage in path.training.whole]
        for cell, path in plan.paths.items()
        if cell.method in ("fft", "das-tune")
    }
    assert [found["fft", rate] for rate in (0.25, 0.5, 1.0)] == [[10], [20], [40]]
    assert [found["das-tune", rate] for rate in (0.25, 0.5, 1.0)] == [[5, 5], [10, 10], [20, 20]]


def test_a_curve_goes_over_rates_or_over_steps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a curve goes over `rates` or over `steps`"):
        prepared(tmp_path, SUITE + "curve: {rates: [0.5], steps: [0.5]}\n")


def test_points_that_come_to_the_same_number_of_steps_are_refused(tmp_path: Path) -> None:
    told = SUITE + "curve: {steps: [0.01, 0.02, 0.5]}\n" + "training: {steps: 60}\n"
    with pytest.raises(UserError, match=r"at 0\.01 and 0\.02 of its 60 steps the row 'fft' is trained for the same 2"):
        prepared(tmp_path, told)
