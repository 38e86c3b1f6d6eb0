"""Figures over the steps of a training: routing as it moves, and scores on the way."""

import csv
import json
from pathlib import Path

import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.figures.gallery import gallery
from esft_bench.spec import curves
from tests.reports.conftest import MadeUpRun

ROWS: dict[str, dict[str, object]] = {
    "base": {},
    "fft": {"method": "attention-router"},
    "esft-token": {"method": "das-experts", "share": 0.1},
    "lora": {"method": "das-experts", "share": 0.1, "lowest": True},
    "random-token": {"ablates": "esft-token"},
}
STEPS = (0, 10, 20)
METRICS = {curves.CONSISTENCY: 1e-6, f"{curves.CONCENTRATION}6": 2.0, curves.SCORE: 5.0, curves.LOSS: 1.0}


def points(run: MadeUpRun) -> list[curves.Point]:
    """Each metric of each row, for two tasks: the step times the metric's size, and half of it."""
    return [
        curves.Point(
            method=method,
            method_title=method.upper(),
            task=task,
            seed=0,
            step=step,
            metric=metric,
            value=size * step / (1 + place),
        )
        for method in ROWS
        if method != "base"
        for place, task in enumerate(run.tasks)
        for metric, size in METRICS.items()
        for step in STEPS
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = MadeUpRun(items=4, general_items=4)
    made.methods = tuple(ROWS)
    made.build(tmp_path)
    manifest = made.manifest()
    manifest["suite"]["methods"] = ROWS
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    curves.write(points(made), tmp_path)
    gallery(gather(tmp_path))
    return tmp_path / "figures"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_consistency_of_routing_is_drawn_over_steps_where_it_was_measured_on_the_way(run: Path) -> None:
    found = rows(run / "das-5-routing-consistency.csv")
    assert {row["method"] for row in found} == {"fft", "esft-token", "lora", "random-token"}
    assert [int(row["step"]) for row in found if row["method"] == "fft"] == list(STEPS)
    assert max(float(row["max"]) for row in found) == pytest.approx(20e-6)


def test_the_domain_advantage_and_scores_beside_random_and_unrelated_experts_are_drawn_over_steps(run: Path) -> None:
    found = rows(run / "das-1-advantage.csv")
    concentrated = [row for row in found if row["panel"].startswith("C-DAS@6")]
    assert {int(row["step"]) for row in concentrated} == set(STEPS)
    scored = {row["method"] for row in found if row["panel"].startswith("Score")}
    assert scored == {"esft-token", "lora", "random-token"}


def test_scores_on_the_way_are_drawn_for_each_task(run: Path) -> None:
    found = [row for row in rows(run / "learning-curves-score.csv") if row["step"] == "20" and row["method"] == "fft"]
    assert [float(row["mean"]) for row in found] == pytest.approx([100, 50, 100 / 3], rel=1e-4)
    assert len({row["task"] for row in found}) == 3
