"""report.md: complete, honest, the same bytes every time."""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from esft_bench.reports.formatting import amount, number, one_line
from esft_bench.reports.forms import write_reports
from esft_bench.reports.markdown.text import escaped, pipe_table
from esft_bench.spec.results import read, write
from tests.reports.conftest import MadeUpRun, report


def section(text: str, title: str) -> str:
    return text.split(f"## {title}", 1)[1].split("\n## ", 1)[0]


def test_the_report_names_its_command_first_and_has_every_part(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    write_reports(tmp_path, draw=False)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "`esft-bench run made-up`" in text.splitlines()[0]
    for title in ("In short", "Table 1", "Table 2", "Table 3", "How to read", "Efficiency", "How to repeat", "Notes"):
        assert f"## {title}" in text
    assert "vllm 0.32.0" in text
    assert "torch 2.13.0" in text
    assert "<" not in text


def test_the_same_records_and_manifest_give_the_same_bytes(made_up: MadeUpRun, tmp_path: Path) -> None:
    records = made_up.build(tmp_path)
    before = report(tmp_path)
    write(records[::-1], tmp_path)
    assert report(tmp_path) == before


def test_times_and_costs_stand_under_efficiency_and_advice_only(made_up: MadeUpRun, tmp_path: Path) -> None:
    records = made_up.build(tmp_path)
    before = report(tmp_path)
    slower = [r.model_copy(update={"value": r.value * 7}) if r.role == "cost" and r.value else r for r in records]
    write(slower, tmp_path)
    manifest = made_up.manifest() | {"started": "2027-01-01T00:00:00Z", "finished": None, "states": {"done": 3}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    after = report(tmp_path)
    assert section(after, "Efficiency") != section(before, "Efficiency")
    for title in ("Efficiency", "Which method"):
        after, before = (text.replace(section(text, title), "") for text in (after, before))
    assert after == before


def test_a_reference_judge_is_marked_on_every_column_it_scored(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    text = report(tmp_path)
    for table in ("Table 1", "Table 3"):
        head = next(row for row in section(text, table).splitlines() if row.startswith("|"))
        assert "Law ‡ reference (chrF)" in head
        assert "Translation ‡ reference (chrF)" in head
        assert "Intent ‡" not in head
    assert "neither a person nor a model" in text


def test_the_summary_tells_rows_apart_only_where_the_numbers_do(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    task = next(row for row in section(report(tmp_path), "In short").splitlines() if "Task ability" in row)
    lower, same = re.search(r"Lower \(one training each.*?\): (.*?)\. Not distinguishable: (.*)", task).groups()  # type: ignore[union-attr]
    assert "ESFT-Gate" in same
    assert "Base" in lower
    assert "Random (Token)" in lower


def test_the_summary_follows_the_numbers_and_not_the_papers(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.skill = {**made_up.skill, "fft": 0.2, "esft-token": 0.2, "random-token": 0.9}
    made_up.build(tmp_path)
    text = report(tmp_path)
    top = next(row for row in text.splitlines() if "have the highest averages" in row).split(" have the highest")[0]
    assert "Random (Token)" in top
    assert "FFT" not in top.replace("Suite", "")
    token = next(row for row in text.splitlines() if row.startswith("- Random (Token) − ESFT-Token: +"))
    assert "; higher on Intent, Law and Translation (one training each" in token


def test_missing_cells_become_dashes_with_footnotes(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: (
        record.model_copy(update={"state": "failed", "value": None, "items": "", "note": "the | server\nstopped"})
        if (record.method, record.benchmark) == ("lora", "law")
        else None
        if record.method == "random-gate"
        else record
    )
    made_up.unscored = lambda record, index: record.method == "fft" and record.benchmark == "intent" and index % 2 == 0
    made_up.build(tmp_path)
    table = section(report(tmp_path), "Table 1")
    rows = [row for row in table.splitlines() if row.startswith("|")]
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert "– (a)" in next(row for row in rows if "LoRA" in row)
    assert "(a) failed: the \\| server stopped" in table
    assert "† (50% scored)" in next(row for row in rows if "| FFT" in row)
    assert "not finished" in table


@pytest.mark.parametrize("manifest", [None, "{half", "[]", "{}", '{"suite": 3, "notes": "x", "versions": []}'])
def test_a_missing_or_strange_manifest_stops_nothing(made_up: MadeUpRun, tmp_path: Path, manifest: str | None) -> None:
    made_up.build(tmp_path)
    (tmp_path / "manifest.json").unlink()
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    text = report(tmp_path)
    assert "## Table 1" in text
    assert ("manifest.json" in text) == (manifest in (None, "{half"))


def test_two_backbones_get_tables_of_their_own(made_up: MadeUpRun, tmp_path: Path) -> None:
    records = made_up.build(tmp_path)
    write([*records, *(record.model_copy(update={"backbone": "other"}) for record in records)], tmp_path)
    text = report(tmp_path)
    for name in ("mini", "other"):
        assert f"## Table 1. Task ability ({name})" in text
    assert section(text, "Table 3. Ablations (mini)") == section(text, "Table 3. Ablations (other)")


def test_a_run_that_has_only_begun_has_a_report(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.change = lambda record: record if (record.method, record.task) == ("fft", "intent") else None
    made_up.build(tmp_path)
    text = report(tmp_path)
    assert "no row has every column yet" in text
    assert section(text, "Table 1").count("not finished") == 1
    assert "nothing to compare yet" in section(text, "In short")


def test_an_empty_run_folder_gives_a_report_that_says_so(tmp_path: Path) -> None:
    text = report(tmp_path)
    assert "Nothing has been evaluated yet" in text
    assert "results.jsonl" in section(text, "Left out")


def test_lost_items_leave_the_values_and_take_the_comparisons(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    for path in (tmp_path / "items").glob("*.jsonl"):
        path.unlink()
    text = report(tmp_path)
    assert "**" not in section(text, "Table 1")
    assert any(record.value is not None for record in read(tmp_path).records)


def test_the_report_of_a_whole_matrix_takes_seconds(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.tasks = {name: name.title() for name in ("math", "code", "intent", "summary", "law", "translation")}
    made_up.general = {f"general-{k}": f"General {k}" for k in range(7)}
    made_up.items, made_up.general_items = 200, 100
    made_up.build(tmp_path)
    start = time.process_time()
    report(tmp_path)
    assert time.process_time() - start < 15  # about 2 s; wide, because tests share machines


def test_tables_line_up_as_plain_text() -> None:
    text = pipe_table(["", "意图", "Law"], [["FFT", "1.0", "**2.0**"], ["ESFT-Token", "10.0", "–"]])
    widths = {sum(2 if ord(char) > 0x2E80 else 1 for char in row) for row in text.splitlines()}
    assert len(widths) == 1


@given(st.text(max_size=60))
def test_any_text_comes_out_of_markdown_as_it_went_in(text: str) -> None:
    said = one_line(text.replace("\0", ""))
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(escaped(said))
    assert [token.type for token in tokens] in ([], ["paragraph_open", "inline", "paragraph_close"])
    inner = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inner} <= {"text"}
    assert "".join(child.content for child in inner) == said


def test_intervals_stay_readable_and_links_are_none() -> None:
    assert escaped("FFT −0.9 [−1.8, 0.1]") == "FFT −0.9 [−1.8, 0.1]"
    assert escaped("[1, 2](http://x)") == "\\[1, 2\\](http://x)"
    assert escaped("a|b\n<script>`x`") == "a\\|b \\<script>\\`x\\`"
    assert escaped("exact_match, _x_ & y") == "exact_match, \\_x\\_ & y"


def test_numbers_read_well() -> None:
    assert number(-0.04) == "0.0"
    assert number(-1.94, signed=True) == "−1.9"
    assert [amount(value) for value in (0.0, 0.0123, 12.34, 420.0, 29300.0)] == ["0", "0.0123", "12.3", "420", "29300"]


def test_samples_are_quoted_as_code_so_that_nothing_in_an_answer_is_markup(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    for path in (tmp_path / "items").glob("*-law.jsonl"):
        rows = [json.loads(line) | {"completion": "`<script>`\n| **x** |"} for line in path.open(encoding="utf-8")]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = section(report(tmp_path), "Samples of answers")
    assert all(f"### {title}, item" in samples for title in ("Intent", "Law", "Translation"))
    answers = [row for row in samples.splitlines() if row.startswith("> - ")]
    assert len(answers) == 3 * len(made_up.methods)
    assert sum(row.endswith(": `'<script>' | **x** |`") for row in answers) == len(made_up.methods)
    assert "score 100.0" in samples
