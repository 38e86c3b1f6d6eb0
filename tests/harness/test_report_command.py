"""`esft-bench report` on run folders that something happened to: what is sound is reported, the rest is named."""

import json
import sys
from pathlib import Path

import pytest

from esft_bench.harness import cli
from tests.reports.conftest import MadeUpRun


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run."""
    MadeUpRun(
        methods=["base", "fft", "esft-token"],
        tasks={"law": "Law"},
        general={"facts": "Facts"},
        items=30,
        general_items=20,
    ).build(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`report(arguments…)`: exit code, what was printed and what was complained about."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["esft-bench", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def half_written(lines: list[str]) -> list[str]:
    return [*lines[:-1], lines[-1][: len(lines[-1]) // 2]]


def of_another_version(lines: list[str]) -> list[str]:
    return [*lines[:-1], json.dumps(json.loads(lines[-1]) | {"schema_version": 99, "new": 1})]


def contradicted(lines: list[str]) -> list[str]:
    return [*lines, json.dumps(json.loads(lines[0]) | {"value": 1.0})]


def failed_cell(lines: list[str]) -> list[str]:
    rows = [json.loads(line) for line in lines]
    broken = {"state": "failed", "value": None, "items": "", "note": "the server stopped <here>"}
    return [json.dumps(row | broken if (row["method"], row["benchmark"]) == ("fft", "law") else row) for row in rows]


def test_what_is_sound_is_reported_and_every_fault_is_named(report, folder) -> None:
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = contradicted([*failed_cell(lines), lines[1]])
    lines = half_written([*of_another_version([*lines, lines[2]]), lines[3]])
    path.write_text("\n".join(lines), encoding="utf-8")
    code, printed, _ = report(folder)
    assert code == 0
    assert "report.html" in printed
    text, page = ((folder / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    for told in (
        "1 unreadable line(s)",
        "1 repeated record(s) counted once",
        "1 record(s) contradicted by a later one",
        "1 record(s) of schema version 99",
        "failed: the server stopped",
    ):
        assert told in text
        assert told in page
    assert "ESFT-Token" in text
    assert "<here>" not in page


def test_every_form_is_made_from_results_jsonl_alone_which_stays_as_it_was(report, folder) -> None:
    made = ["results.csv", "results.parquet"]
    before = {name: (folder / name).read_bytes() for name in [*made, "results.jsonl"]}
    for name in made:
        (folder / name).unlink()
    assert report(folder)[0] == 0
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_missing_items_take_the_comparison_and_leave_the_value(report, folder) -> None:
    for path in (folder / "items").glob("fft-law-0-law*"):
        path.unlink()
    code, _, complaint = report(folder)
    assert code == 0
    assert "have no items in the run folder" in complaint


@pytest.mark.parametrize("left", ["", "{half", None])
def test_nothing_left_is_exit_code_1_and_still_a_report_that_says_so(report, folder, left) -> None:
    (folder / "results.jsonl").unlink()
    if left is not None:
        (folder / "results.jsonl").write_text(left)
    code, _, complaint = report(folder)
    assert code == 1
    assert "Nothing has been evaluated yet" in (folder / "report.md").read_text(encoding="utf-8")
    assert "Nothing has been evaluated yet" in (folder / "report.html").read_text(encoding="utf-8")
    assert complaint or left == ""


def test_of_several_runs_one_that_is_sound_is_enough(report, folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    code, printed, complaint = report(folder, tmp_path / "empty")
    assert code == 0
    assert str(folder / "report.html") in printed
    assert "There is no results.jsonl" in complaint


def test_a_run_is_compared_with_another_and_exported(report, folder, tmp_path) -> None:
    MadeUpRun(methods=["base", "fft"], tasks={"law": "Law"}, general={}, items=30).build(tmp_path / "other")
    code, printed, _ = report(folder, "--against", tmp_path / "other", "--export", "every-eval-ever")
    assert code == 0
    assert all(str(folder / name) in printed for name in ("comparison.md", "comparison.html", "every_eval_ever"))
    assert "row: ESFT-Token" in (folder / "comparison.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--against", "no/such"], "no such run folder"),
        (["--against", "empty"], "nothing can be read there"),
        (["--export", "csv"], "there is every-eval-ever"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_exit_code_2(
    report, folder, tmp_path, monkeypatch, options, sentence
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, _, complaint = report(folder, *options)
    assert code == 2
    assert sentence in complaint
    assert len(complaint.strip().splitlines()) == 1
