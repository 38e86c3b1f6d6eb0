"""Sweeps are found in a suite's rows, and drawn as far as there are averages."""

import json
from pathlib import Path

from esft_bench.reports.content import gather
from esft_bench.reports.figures.gallery import gallery
from esft_bench.reports.forms import write_reports
from esft_bench.reports.sweeps import sweeps
from tests.reports.conftest import MadeUpRun


def suite_with(made: MadeUpRun, folder: Path, rows: dict[str, dict[str, object]]) -> list[tuple[str, list[object]]]:
    """The sweeps found when the suite has `rows`."""
    made.items = made.general_items = 2
    made.build(folder)
    manifest = made.manifest()
    manifest["suite"]["methods"] = rows
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return [(sweep.name, [value for value, _ in sweep.rows]) for sweep in sweeps(gather(folder).backbones[0].results)]


def test_a_sweep_is_rows_of_one_method_that_differ_in_one_hyperparameter(made_up: MadeUpRun, tmp_path: Path) -> None:
    rows: dict[str, dict[str, object]] = {
        "a": {"method": "esft-gate", "p": 0.2, "learning_rate": 1e-4},
        "b": {"method": "esft-gate", "p": 0.1, "learning_rate": 3e-4},
        "c": {"method": "esft-token", "p": 0.3},
        "d": {"method": "lora", "rank": 8},
        "e": {"method": "lora", "rank": 16, "alpha": 3},
    }
    assert suite_with(made_up, tmp_path, rows) == [("p", [0.1, 0.2])]


def test_learning_rates_searched_at_one_setting_are_a_sweep_of_their_own(made_up: MadeUpRun, tmp_path: Path) -> None:
    rows: dict[str, dict[str, object]] = {
        f"row-{rate}-{p}": {"method": "esft-gate", "p": p, "learning_rate": rate}
        for p in (0.1, 0.2)
        for rate in (1e-4, 3e-4)
    }
    found = suite_with(made_up, tmp_path, rows)
    assert found == [*[("p", [0.1, 0.2])] * 2, *[("learning_rate", [1e-4, 3e-4])] * 2]


def test_a_rank_is_a_sweep_with_an_alpha_that_keeps_its_scaling(made_up: MadeUpRun, tmp_path: Path) -> None:
    rows: dict[str, dict[str, object]] = {
        "a": {"method": "lora", "rank": 8, "alpha": 16},
        "b": {"method": "lora", "rank": 128, "alpha": 256},
        "c": {"method": "lora", "rank": 32, "alpha": 32},
    }
    assert suite_with(made_up, tmp_path, rows) == [("rank", [8, 128])]


def test_a_sweep_without_general_averages_is_drawn_without_that_panel(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.unscored = lambda record, index: record.role == "general" and index < 30
    made_up.build(tmp_path)
    manifest = made_up.manifest()
    for row, value in (("esft-token", 0.2), ("esft-gate", 0.1)):
        manifest["suite"]["methods"][row] |= {"method": "esft", "p": value}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    write_reports(tmp_path)
    (drawn,) = [one for one in gallery(gather(tmp_path)).drawn if one.name == "esft-6-sweep"]
    assert {line.split(",")[5] for line in drawn.csv.read_text("utf-8").splitlines()[1:]} == {"ability"}
    assert "General ability has no averages yet" in drawn.caption
