"""What a plan promises to detect: fewer items, more rows or noisier scores make it coarser."""

from pathlib import Path

import numpy as np
import pytest

from esft_bench.reports.power import ASSUMED, Design, deviations_in
from esft_bench.reports.statistics.detectable import Deviations
from esft_bench.reports.statistics.paired import paired_difference
from tests.reports.conftest import MadeUpRun


def test_more_items_and_runs_detect_smaller_effects_and_more_rows_larger_ones() -> None:
    assert Design(7).detectable(800, 1) < Design(7).detectable(200, 1)
    assert Design(7).detectable(200, 1) > Design(3).detectable(200, 1)
    noisy = Design(7, Deviations(25.0, 5.0, 43.0))
    assert noisy.detectable(200, 10) < noisy.detectable(200, 3)
    assert Design(7, benchmarks=6).detectable(200, 3) < Design(7).detectable(200, 3)


def test_a_deviation_seen_before_replaces_the_assumed_one() -> None:
    assert Design(7, Deviations(10.0)).detectable(200, 1) < Design(7, ASSUMED).detectable(200, 1)


@pytest.mark.parametrize("points", [3.0, 6.0, 12.0])
def test_the_seeds_and_items_that_a_difference_needs_find_it_and_fewer_do_not(points: float) -> None:
    design = Design(7, benchmarks=6)
    seeds, items = design.seeds_needed(points, 200), design.items_needed(points, 3)
    if seeds is not None:
        assert design.detectable(200, seeds) <= points
        assert seeds == 2 or design.detectable(200, seeds - 1) > points
    assert items is not None
    assert design.detectable(items, 3) <= points < design.detectable(int(items * 0.98) - 1, 3)


def test_what_items_alone_keep_from_being_found_no_number_of_seeds_finds() -> None:
    design = Design(7, Deviations(items=50.0))
    assert design.seeds_needed(2.0, 100) is None
    assert Design(7, Deviations(items=1.0, runs=30.0)).items_needed(2.0, 2) is None


def test_the_planned_design_finds_its_effect_as_often_as_it_says() -> None:
    rng, design, found = np.random.default_rng(3), Design(2, Deviations(25.0, 3.0, 43.0)), 0
    delta = design.detectable(100, 4)
    for _ in range(400):
        differences = delta + rng.normal(0, 3, (4, 1)) + rng.normal(0, 25, (1, 100)) + rng.normal(0, 43, (4, 100))
        one = paired_difference([differences])
        assert one is not None
        found += one.p_value <= 0.05
    assert 0.7 < found / 400 < 0.95


def test_an_earlier_run_tells_how_much_its_items_and_runs_vary(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.seeds = (0, 1)
    made_up.build(tmp_path)
    seen = deviations_in(tmp_path)
    assert set(seen) == {*made_up.tasks, *made_up.general}
    of_an_item = np.hypot(seen["intent"].items, seen["intent"].residual)
    assert of_an_item == pytest.approx(40.0, rel=0.5)  # all-or-nothing scores of able and less able rows
    assert all(np.isfinite([one.items, one.runs]).all() for one in seen.values())


def test_without_an_earlier_run_nothing_was_seen(tmp_path: Path) -> None:
    assert deviations_in(tmp_path / "none") == {}
