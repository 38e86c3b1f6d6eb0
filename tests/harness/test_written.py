"""A run's folder while the run goes on: records by the driver, the report by another process."""

import subprocess
import sys
import time

import psutil
import pytest

from esft_bench.harness.records import written as module
from esft_bench.harness.records.beside import LOG
from esft_bench.harness.records.written import Written
from esft_bench.harness.store.draft import draft_json, draft_jsonl
from esft_bench.harness.store.names import ITEMS, LM_EVAL
from esft_bench.reports import forms
from esft_bench.spec.record import ItemScore
from esft_bench.spec.results import read
from tests.harness.plans import finish, graph_of, prepared
from tests.harness.test_plan import ROWS


def answered(folder):
    draft_jsonl(folder / ITEMS, [ItemScore(id=str(item), score=1.0).model_dump() for item in range(4)])
    draft_json(folder / LM_EVAL, {"results": {}})


def folder_of_a_run(tmp_path):
    """The folder of a run of which the base model's answers to one benchmark are there."""
    made = prepared(tmp_path, ROWS)
    path = made.plan.paths[made.plan.cells[0]]
    finish(made, path.training)
    name, answers = next(iter(path.answers.items()))
    for step in dict.fromkeys((answers, path.scores[name])):
        finish(made, step, answered, seconds=1.0)
    made.folder.mkdir(parents=True)
    return Written(made.plan, graph_of(made), made.folder)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """One whose first report is due at once."""
    monkeypatch.setattr(module, "FIRST", 0.0)
    return folder_of_a_run(tmp_path)


def test_the_report_of_a_run_at_work_is_written_by_another_process_and_others_wait_for_it(written, monkeypatch):
    monkeypatch.setattr(forms, "write_reports", None)
    written.refresh_now_and_then({})
    assert len(read(written.folder).records) > 0
    with written.alone():
        assert "100.0" in (written.folder / "report.md").read_text()
        assert {"results.csv", "results.parquet", "report.html"} <= {path.name for path in written.folder.iterdir()}
    assert (written.folder / LOG).read_text() == ""


def test_a_report_that_cannot_be_written_on_the_way_is_in_the_log_and_stops_nothing(written):
    (written.folder / "report.md").mkdir()
    (written.folder / "report.html").mkdir()
    written.refresh_now_and_then({})
    with written.alone():
        assert read(written.folder).records


def test_a_run_that_is_short_writes_no_report_on_the_way(tmp_path):
    written = folder_of_a_run(tmp_path)
    written.refresh_now_and_then({})
    assert not list(written.folder.iterdir())


def test_who_writes_a_report_ends_with_its_driver(tmp_path):
    text = "from esft_bench.harness.records import beside; beside.write_beside(__import__('pathlib').Path('.'))"
    driver = subprocess.Popen([sys.executable, "-c", text], cwd=tmp_path)
    try:
        while not (children := psutil.Process(driver.pid).children()):
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait()
    assert psutil.wait_procs(children, timeout=30)[1] == []
