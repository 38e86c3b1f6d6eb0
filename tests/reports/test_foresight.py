"""What a plan promises to resolve: less items, more rows or noisier scores make it coarser."""

from pathlib import Path

import numpy as np
import pytest

from esft_bench.reports.foresight import ASSUMED, Seen, resolvable_by, seen_in
from tests.reports.conftest import MadeUpRun


def test_more_items_and_runs_resolve_more_and_more_rows_less() -> None:
    assert resolvable_by(800, 1, 7) < resolvable_by(200, 1, 7)
    assert resolvable_by(200, 1, 7) > resolvable_by(200, 1, 3)
    noisy = Seen(ASSUMED, 5.0)
    assert resolvable_by(200, 10, 7, noisy) < resolvable_by(200, 3, 7, noisy)


def test_a_spread_seen_before_replaces_the_assumed_one() -> None:
    assert resolvable_by(200, 1, 7, Seen(10.0, 0.0)) < resolvable_by(200, 1, 7)
    assert resolvable_by(200, 1, 7, Seen(ASSUMED, 0.0)) == resolvable_by(200, 1, 7)


def test_an_earlier_run_tells_how_much_its_items_and_runs_vary(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.seeds = (0, 1)
    made_up.build(tmp_path)
    seen = seen_in(tmp_path)
    assert set(seen) == {*made_up.tasks, *made_up.general}
    assert seen["intent"].items == pytest.approx(40.0, rel=0.5)  # all-or-nothing scores of able and less able rows
    assert all(np.isfinite([one.items, one.runs]).all() for one in seen.values())


def test_without_an_earlier_run_nothing_was_seen(tmp_path: Path) -> None:
    assert seen_in(tmp_path / "none") == {}
