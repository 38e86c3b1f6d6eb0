"""A figure says what its data say, looks the same twice, and is not there where a run has nothing to draw."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.figures.canvas import Drawn
from esft_bench.reports.figures.gallery import gallery
from esft_bench.reports.forms import write_reports
from esft_bench.spec import curves, routing
from tests.reports.conftest import METHODS, MadeUpRun

TITLES = {"intent": "意图 <b>$x^2$</b>", "law": "Law & order", "translation": "ᏣᎳᎩ"}
LAYERS, EXPERTS, TOP = [1, 2, 4], 16, 6
GENERAL = "general-data"


def profiles_of(titles: dict[str, str]) -> list[routing.TaskProfile]:
    random = np.random.default_rng(0)
    profiles = []
    for task, title in {**titles, GENERAL: "General data"}.items():
        base = random.gamma(0.4, size=(len(LAYERS), EXPERTS))
        for sample in (0, 1):
            share = base * random.gamma(30, 1 / 30, size=base.shape)
            share /= share.sum(axis=1, keepdims=True)
            grids = {"gate": (0.4 * share).tolist(), "token": share.tolist()}
            profiles.append(routing.TaskProfile(task=task, title=title, sample=sample, **grids))
    return profiles


def routing_of(titles: dict[str, str]) -> routing.Routing:
    cells = [
        {"method": method, "method_title": METHODS[method][0], "task": task, "seed": 0}
        for method in ("esft-token", "esft-gate", "random-token")
        for task in titles
    ]
    rows = [{"method": method, "method_title": METHODS[method][0]} for method in ("esft-token", "esft-gate")]
    by_layer = {"mean": [2.0, 1.0, 3.0], "low": [2.0, 0.0, 3.0], "high": [2.0, 2.0, 3.0]}
    moved = {"mean": [0.2, 0.3, 0.4], "low": [0.1, 0.2, 0.3], "high": [0.3, 0.4, 0.5]}
    curve = {"mean": [0.3 + 0.7 * k / (EXPERTS - 1) for k in range(EXPERTS)], "deviation": [0.05] * EXPERTS}
    curve |= {"each_mean": [0.3] + [0.7 / (EXPERTS - 1)] * (EXPERTS - 1), "each_deviation": [0.02] * EXPERTS}
    return routing.Routing(
        backbone="mini",
        layers=LAYERS,
        num_experts=EXPERTS,
        top_k=TOP,
        profiles=profiles_of(titles),
        concentrations=[
            routing.Concentration(task=task, title=title, score=kind, **curve)
            for task, title in titles.items()
            for kind in ("gate", "token")
        ],
        overlaps=[
            routing.Overlap(first=first, second=second, score=kind, shared=TOP if first == second else 2.5)
            for first in titles
            for second in titles
            for kind in ("gate", "token")
        ],
        selections=[routing.SelectedExperts(**cell, experts={1: [3, 1], 2: [5], 4: [0, 2, 7]}) for cell in cells],
        shifts=[
            routing.Shift(**cell, distance=[0.1, 0.2, 0.3], gate=[[0.2] * EXPERTS] * 3, advantage=(0.25, 0.5))
            for cell in cells
        ],
        over_cells=[
            *(routing.OverCells(quantity="experts", **row, **by_layer) for row in rows),
            *(routing.OverCells(quantity="experts", **row, task=task, **by_layer) for row in rows for task in titles),
            *(
                routing.OverCells(quantity=quantity, **row, **moved)
                for quantity in ("shift", "consistency")
                for row in rows
            ),
        ],
    )


def points_of(titles: dict[str, str]) -> list[curves.Point]:
    return [
        curves.Point(
            method=method, method_title=METHODS[method][0], task=task, seed=0, step=step, metric="loss", value=2 / step
        )
        for method in ("fft", "esft-token", "random-token")
        for task in titles
        for step in range(1, 41)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has data for every figure but the sweeps of group sizes and counts."""
    made, folder = MadeUpRun(tasks=dict(TITLES), items=40, general_items=20), tmp_path_factory.mktemp("whole")
    made.methods = ("base", "fft", "lora", "esft-token", "esft-gate", "random-token")
    made.build(folder)
    manifest = made.manifest()
    for row, method, value in (("esft-token", "esft", 0.2), ("esft-gate", "esft", 0.1)):
        manifest["suite"]["methods"][row] |= {"method": method, "p": value}
    manifest["suite"] |= {"alignment": GENERAL, "training": {"steps": 40}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    routing.write(routing_of(TITLES), folder)
    curves.write(points_of(TITLES), folder)
    write_reports(folder)
    return folder


def drawn_in(folder: Path) -> list[Drawn]:
    return gallery(gather(folder)).drawn


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_figure_is_well_formed_with_its_data_beside_it(whole: Path) -> None:
    names = {path.stem for path in (whole / "figures").glob("*.svg")}
    assert names == {
        "das-1-advantage",
        "das-4-experts-by-layer",
        "das-5-routing-consistency",
        "esft-2-concentration",
        "esft-3-overlap",
        "esft-4-costs",
        "esft-5-experts-1",
        "esft-5-experts-2",
        "esft-6-sweep",
        "gain-against-forgetting",
        "gain-forgetting-memory",
        "learning-curves",
        "routing-shift",
    }
    for name in names:
        ElementTree.fromstring((whole / "figures" / f"{name}.svg").read_bytes())
        assert len(rows_of(whole / "figures" / f"{name}.csv")) > 1


def test_labels_of_any_script_stay_text_and_markup_stays_words(whole: Path) -> None:
    svg = (whole / "figures" / "esft-3-overlap.svg").read_text(encoding="utf-8")
    words = {
        "".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")
    }
    assert set(TITLES.values()) <= words
    assert "Noto Sans Cherokee" in svg
    assert "Noto Sans CJK SC" in svg


def test_the_report_links_every_figure_and_says_why_the_others_are_not_there(whole: Path) -> None:
    text = (whole / "report.md").read_text(encoding="utf-8")
    for path in (whole / "figures").glob("*.svg"):
        assert f"](figures/{path.name})" in text
        assert f"](figures/{path.stem}.csv)" in text
    assert "group_size alone" in text
    assert "share alone" in text


def test_a_second_drawing_gives_the_same_bytes_and_removes_what_is_no_longer_there(whole: Path) -> None:
    folder = whole / "figures"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "from-another-suite.svg").write_text("<svg/>")
    drawn = drawn_in(whole)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert {one.svg.name for one in drawn} | {one.csv.name for one in drawn} == set(before)


def test_drawing_leaves_no_setting_behind(whole: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    drawn_in(whole)
    assert dict(mpl.rcParams) == before


def test_a_run_without_routing_or_curves_has_the_figures_about_its_scores_only(
    made_up: MadeUpRun, tmp_path: Path
) -> None:
    made_up.items = made_up.general_items = 10
    made_up.build(tmp_path)
    found = gallery(gather(tmp_path))
    names = ["gain-against-forgetting", "gain-forgetting-memory", "esft-4-costs"]
    assert [one.name for one in found.drawn] == names
    assert {one.why for one in found.missing} >= {"the run has no curves.jsonl"}
    assert all(one.why and not one.why.endswith(".") for one in found.missing)


def test_an_empty_run_draws_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    assert drawn_in(tmp_path) == []
    assert not (tmp_path / "figures").exists()


def test_a_report_during_a_run_draws_nothing(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.items = made_up.general_items = 10
    made_up.build(tmp_path)
    write_reports(tmp_path, draw=False)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "figures").exists()
    assert "](figures/" not in text


def test_figures_about_experts_show_the_stored_numbers_and_no_others(whole: Path) -> None:
    known = routing.read(whole)
    assert known is not None
    shown = {name: rows_of(whole / "figures" / f"{name}.csv") for name in ("esft-3-overlap", "routing-shift")}
    assert [float(row["shared_by_gate"]) for row in shown["esft-3-overlap"]] == [
        one.shared for one in known.overlaps if one.score == "gate"
    ]
    moved = [one for one in known.over_cells if one.quantity == "shift"]
    assert [float(row["max"]) for row in shown["routing-shift"]] == [value for one in moved for value in one.high]
    squared = [value for one in known.over_cells if one.quantity == "consistency" for value in one.mean]
    assert [float(row["mean"]) for row in rows_of(whole / "figures" / "das-5-routing-consistency.csv")] == squared
    counted = rows_of(whole / "figures" / "esft-5-experts-1.csv")
    assert [float(row["experts"]) for row in counted] == [2, 2, 2, 1, 1, 1, 3, 3, 3]
    first = rows_of(whole / "figures" / "esft-2-concentration.csv")[0]
    told = ("share_mean", "share_sd", "cumulated_mean", "cumulated_sd")
    assert tuple(first[name] for name in told) == ("0.3", "0.02", "0.3", "0.05")


def test_the_domain_advantage_is_drawn_before_and_after_training(whole: Path) -> None:
    rows = [row for row in rows_of(whole / "figures" / "das-1-advantage.csv") if row["panel"].startswith("C-DAS@6")]
    assert {(row["step"], row["mean"]) for row in rows} == {("0", "0.25"), ("40", "0.5")}


def test_routing_of_an_earlier_version_is_read_and_what_it_lacks_is_not_drawn(whole: Path, tmp_path: Path) -> None:
    MadeUpRun(tasks=dict(TITLES), items=4, general_items=4).build(tmp_path)
    known = routing.read(whole)
    assert known is not None
    old = known.model_dump(exclude={"concentrations", "overlaps", "over_cells"})
    (tmp_path / routing.FILE).write_text(json.dumps(old), encoding="utf-8")
    missing = {one.title: one.why for one in gallery(gather(tmp_path)).missing}
    assert "routing.json" in missing["Concentration of routing (ESFT Figure 2)"]


def test_the_pareto_figures_data_are_paired_differences_from_the_base(whole: Path) -> None:
    content = gather(whole)
    average = content.backbones[0].ability.frame()["Avg"]
    for row in rows_of(whole / "figures" / "gain-forgetting-memory.csv"):
        gained = average[row["title"]] - average["Base"]
        assert float(row["gain"]) == pytest.approx(gained, abs=1e-3)
        assert float(row["gain_low"]) < float(row["gain"]) < float(row["gain_high"])


def test_a_cell_that_stopped_early_does_not_bend_a_learning_curve(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.items = made_up.general_items = 4
    made_up.seeds = (0, 1)
    made_up.build(tmp_path)
    points = [
        curves.Point(
            method="fft", method_title="FFT", task="law", seed=seed, step=step, metric=curves.SCORE, value=10.0 * seed
        )
        for seed, last in ((0, 100), (1, 50))
        for step in range(50, last + 1, 50)
    ]
    losses = [point.model_copy(update={"metric": "loss"}) for point in points]
    curves.write([*points, *losses], tmp_path)
    drawn_in(tmp_path)
    rows = rows_of(tmp_path / "figures" / "learning-curves-score.csv")
    assert [(row["step"], row["mean"]) for row in rows] == [("50", "5")]
