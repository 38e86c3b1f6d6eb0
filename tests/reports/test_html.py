"""report.html as text: self-contained, small enough, the same each time, and honest about what is missing."""

import json
import re
from pathlib import Path

import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.formatting import number
from esft_bench.reports.html.report import render
from esft_bench.spec.results import write
from tests.reports.conftest import MadeUpRun


@pytest.fixture
def made_up() -> MadeUpRun:
    """A small run: three rows, one task, one general benchmark."""
    return MadeUpRun(
        methods=["base", "esft-token", "random-token"], tasks={"law": "Law"}, general={"facts": "Facts"}, items=40
    )


def page_of(folder: Path) -> str:
    return render(gather(folder))


def test_the_same_run_gives_the_same_bytes(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    assert page_of(tmp_path) == page_of(tmp_path)


def test_the_page_needs_nothing_but_itself(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    text = page_of(tmp_path)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)  # type: ignore[union-attr]
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', text) == []
    assert " style=" not in text


def test_every_number_of_the_tables_is_there_with_its_uncertainty(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    backbone = gather(tmp_path).backbones[0]
    text = page_of(tmp_path)
    cell = backbone.general.cells["esft-token", "facts"]
    assert f'<span class="figure">{cell.value:.1f}</span>' in text
    gap = backbone.ablation.cells["random-token", "law"]
    assert f"<small>[{number(gap.low)}, {number(gap.high)}]</small>" in text
    assert backbone.advice.tasks[0].sentences[0].text in text
    for title in (
        "In short",
        "At a glance",
        "Which method for this task?",
        "Table 1. Task ability",
        "Table 3. Ablations",
        "Samples of answers",
    ):
        assert title in text


def test_the_page_of_a_run_like_mini_is_far_below_five_megabytes(tmp_path: Path) -> None:
    made_up = MadeUpRun(items=30, general_items=20)
    made_up.tasks = {name: name.title() for name in ("math", "code", "intent", "summary", "law", "translation")}
    made_up.general = {f"general-{k}": f"General {k}" for k in range(7)}
    made_up.build(tmp_path)
    for path in (tmp_path / "items").glob("*.jsonl"):
        rows = [json.loads(line) | {"prompt": "p" * 3000, "completion": "c" * 3000} for line in path.open()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert 500_000 < len(page_of(tmp_path).encode()) < 4_000_000


def test_a_run_at_work_says_so_and_looks_again(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    assert "still at work" not in page_of(tmp_path)
    assert 'http-equiv="refresh"' not in page_of(tmp_path)
    manifest = made_up.manifest()
    del manifest["finished"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    text = page_of(tmp_path)
    assert "still at work" in text
    assert 'http-equiv="refresh" content="60"' in text


def test_what_was_left_out_stands_on_the_page_and_is_pointed_at_from_its_top(
    made_up: MadeUpRun, tmp_path: Path
) -> None:
    made_up.build(tmp_path)
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-40] + "<script>", encoding="utf-8")
    text = page_of(tmp_path)
    assert "1 unreadable line(s)" in text
    assert text.index('href="#left-out">what was left out') < text.index("In short</h2>")


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    text = page_of(tmp_path)
    assert "Nothing has been evaluated yet" in text
    assert "There is no results.jsonl" in text


def test_two_backbones_have_tables_under_ids_of_their_own(made_up: MadeUpRun, tmp_path: Path) -> None:
    records = made_up.build(tmp_path)
    write([*records, *(record.model_copy(update={"backbone": "other"}) for record in records)], tmp_path)
    ids = re.findall(r' id="([^"]+)"', page_of(tmp_path))
    assert len(ids) == len(set(ids))
    assert {"table-1-task-ability-mini", "table-1-task-ability-other"} <= set(ids)


def test_the_lead_is_ours_alone_and_what_a_run_brought_stays_as_it_was(made_up: MadeUpRun, tmp_path: Path) -> None:
    title = "a **b** <i>c</i> [d]"
    made_up.change = lambda record: record.model_copy(update={"method_title": title}) if record.task else record
    made_up.build(tmp_path)
    text = page_of(tmp_path)
    assert "a **b** &lt;i&gt;c&lt;/i&gt; [d]" in text
    assert "<i>c</i>" not in text
    assert "<strong>Bold</strong>: the highest of its column" in text
