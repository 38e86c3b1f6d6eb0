"""What a plan promises to detect: fewer items, more rows or noisier scores make it coarser."""

from pathlib import Path

import numpy as np
import pytest

from esft_bench.reports.power import ASSUMED, detectable_with, deviations_in
from esft_bench.reports.statistics.detectable import Deviations
from tests.reports.conftest import MadeUpRun


def test_more_items_and_runs_detect_smaller_effects_and_more_rows_larger_ones() -> None:
    assert detectable_with(800, 1, 7) < detectable_with(200, 1, 7)
    assert detectable_with(200, 1, 7) > detectable_with(200, 1, 3)
    noisy = Deviations(ASSUMED.items, 5.0)
    assert detectable_with(200, 10, 7, noisy) < detectable_with(200, 3, 7, noisy)


def test_a_deviation_seen_before_replaces_the_assumed_one() -> None:
    assert detectable_with(200, 1, 7, Deviations(10.0, 0.0)) < detectable_with(200, 1, 7)
    assert detectable_with(200, 1, 7, Deviations(ASSUMED.items, 0.0)) == detectable_with(200, 1, 7)


def test_an_earlier_run_tells_how_much_its_items_and_runs_vary(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.seeds = (0, 1)
    made_up.build(tmp_path)
    seen = deviations_in(tmp_path)
    assert set(seen) == {*made_up.tasks, *made_up.general}
    assert seen["intent"].items == pytest.approx(40.0, rel=0.5)  # all-or-nothing scores of able and less able rows
    assert all(np.isfinite([one.items, one.runs]).all() for one in seen.values())


def test_without_an_earlier_run_nothing_was_seen(tmp_path: Path) -> None:
    assert deviations_in(tmp_path / "none") == {}
