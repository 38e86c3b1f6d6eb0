"""ESFT Figure 4: our costs as bars, and the paper's beside them where rows and backbone are the same."""

import csv
from pathlib import Path
from typing import Any

import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.figures.gallery import gallery
from tests.reports.conftest import MadeUpRun, manifest_of

PAPERS = {"path": "deepseek-ai/ESFT-vanilla-lite", "revision": "main"}


def drawn(made: MadeUpRun, folder: Path, **suite: Any) -> dict[tuple[str, str], dict[str, str]]:
    """The figure's data by row and metric."""
    made.items = made.general_items = 10
    backbone = suite.get("backbone", {}).get("path", "mini")
    made.change = lambda record: record.model_copy(update={"backbone": backbone})
    made.build(folder)
    manifest_of(folder, **suite)
    found = next(one for one in gallery(gather(folder)).drawn if one.name == "esft-4-costs")
    assert ("Diamonds" in found.caption) == (suite.get("paper") == "esft" and backbone != "mini")
    with found.csv.open(encoding="utf-8") as file:
        return {(row["title"], row["metric"]): row for row in csv.DictReader(file)}


def told(row: dict[str, str]) -> tuple[str, str]:
    return row["published_min"], row["published_max"]


def test_the_papers_minutes_gigabytes_and_megabytes_stand_beside_ours(made_up: MadeUpRun, tmp_path: Path) -> None:
    rows = drawn(made_up, tmp_path, paper="esft", backbone=PAPERS)
    assert told(rows["FFT", "train_seconds"]) == ("28.5", "28.5")
    assert told(rows["LoRA", "peak_memory_bytes"]) == ("30050", "30050")
    assert told(rows["ESFT-Gate", "peak_memory_bytes"]) == ("45020", "64200")  # a range over tasks
    assert told(rows["ESFT-Token", "stored_bytes"]) == ("2630", "2630")
    assert told(rows["Random (Token)", "stored_bytes"]) == ("", "")


@pytest.mark.parametrize("suite", [{"paper": "das", "backbone": {}}, {"paper": "esft", "backbone": {}}, {}])
def test_of_another_backbone_or_paper_nothing_is_drawn_beside(
    made_up: MadeUpRun, tmp_path: Path, suite: dict[str, Any]
) -> None:
    assert {told(row) for row in drawn(made_up, tmp_path, **suite).values()} == {("", "")}
