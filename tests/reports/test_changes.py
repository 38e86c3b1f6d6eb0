"""Two runs side by side: only what truly moved is significant, and everything else that differs is named."""

import json
from pathlib import Path

import pytest

from esft_bench.reports.changes import Changes, changes, settings
from esft_bench.reports.content import gather
from esft_bench.reports.forms import write_comparison
from tests.reports.conftest import SKILL, MadeUpRun


def small(**skill: float) -> MadeUpRun:
    return MadeUpRun(
        methods=["base", "fft", "esft-token"],
        tasks={"intent": "Intent", "law": "Law"},
        general={"facts": "Facts"},
        skill={**SKILL, **skill},
    )


def compared(folder: Path, this: MadeUpRun, other: MadeUpRun) -> Changes:
    this.build(folder / "today")
    other.build(folder / "yesterday")
    return changes(gather(folder / "today"), gather(folder / "yesterday"))


def test_a_run_against_itself_moves_nothing_and_shares_every_setting(tmp_path: Path) -> None:
    found = compared(tmp_path, small(), small())
    assert found.settings == found.came == found.went == found.remarks == []
    for table in found.tables:
        assert {cell.value for cell in table.cells.values()} == {0.0}
        assert all(cell.mark == "" and cell.low <= 0 <= cell.high for cell in table.cells.values())
    assert all("none of" in sentence for sentence in found.in_short)
    assert {cell.value for cell in found.costs[0].cells.values()} == {1.0}


def test_what_got_better_is_significant_where_it_did_and_nowhere_else(tmp_path: Path) -> None:
    found = compared(tmp_path, small(fft=0.9), small(fft=0.3))
    ability = found.tables[0]
    moved = {key for key, cell in ability.cells.items() if cell.mark == "significant"}
    assert moved == {("fft", "intent"), ("fft", "law"), ("fft", "")}
    assert all(ability.cells[key].low > 0 for key in moved)
    assert "3 of 9 are significant: FFT on Intent +" in found.in_short[0]
    assert found.names == ("today", "yesterday")


def test_the_difference_is_the_paired_one_of_the_items(tmp_path: Path) -> None:
    found = compared(tmp_path, small(fft=0.9), small(fft=0.3))
    values = []
    for name in ("today", "yesterday"):
        lines = (tmp_path / name / "items/fft-intent-0-intent.jsonl").read_text().splitlines()
        values.append(sum(json.loads(line)["score"] for line in lines) / len(lines))
    assert found.tables[0].cells["fft", "intent"].value == pytest.approx(100 * (values[0] - values[1]))


def test_rows_tasks_and_seeds_of_one_run_only_are_named(tmp_path: Path) -> None:
    this, other = small(), small()
    this.methods, other.seeds, other.general = ["base", "fft", "lora"], [0, 1], {"facts": "Facts", "cloze": "Cloze"}
    found = compared(tmp_path, this, other)
    assert found.came == ["row: LoRA"]
    assert found.went == ["row: ESFT-Token", "benchmark: Cloze", "seed: 1"]
    assert [row.name for row in found.tables[0].rows] == ["base", "fft"]


def test_questions_that_were_reworded_are_not_compared(tmp_path: Path) -> None:
    small().build(tmp_path / "today")
    small().build(tmp_path / "yesterday")
    path = tmp_path / "today" / "items/fft-law-0-law.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "\n".join(json.dumps(row | {"prompt": f"new {k}"} if k < 30 else row) for k, row in enumerate(rows))
    )
    found = changes(gather(tmp_path / "today"), gather(tmp_path / "yesterday"))
    assert any(sentence.startswith("30 answers were to another question") for sentence in found.remarks)
    assert found.tables[0].differences["fft", "law"].components.items == 70


def test_scores_by_another_judge_are_not_compared(tmp_path: Path) -> None:
    other = small()
    other.change = lambda record: record.model_copy(update={"judge": "gpt-5.2"}) if record.judge else record
    found = compared(tmp_path, small(), other)
    assert found.tables[0].cells["fft", "law"].value is None
    assert ("fft", "") not in found.tables[0].differences
    assert any("gpt-5.2" in sentence and "not compared" in sentence for sentence in found.remarks)


def test_versions_and_settings_that_differ_are_listed_by_name() -> None:
    this = {"versions": {"torch": "2.13"}, "suite": {"training": {"steps": 60}}, "started": "now"}
    other = {"versions": {"torch": "2.12", "vllm": "0.32"}, "suite": {"training": {"steps": 60}}, "started": "then"}
    told = {one.name: (one.other, one.this) for one in settings(this, other)}
    assert told == {"versions.torch": ("2.12", "2.13"), "versions.vllm": ("0.32", "–")}


def test_text_and_page_say_the_same_and_escape_what_the_runs_brought(tmp_path: Path) -> None:
    this = small(fft=0.9)
    this.change = lambda record: record.model_copy(update={"method_title": f"<b>{record.method}</b>|"})
    compared(tmp_path, this, small(fft=0.3))
    text, page = (
        path.read_text(encoding="utf-8")
        for path in write_comparison(gather(tmp_path / "today"), gather(tmp_path / "yesterday"))
    )
    assert "3 of 9 are significant" in text
    assert "3 of 9 are significant" in page
    assert "<b>" not in page
    assert "\\<b>fft" in text
    assert "Content-Security-Policy" in page
