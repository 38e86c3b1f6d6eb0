"""The whole path, from the command line to the report, on the backbone that ships."""

import json
import os
import shutil
import signal
import subprocess
import time

import pandas
import pytest

from esft_bench.spec import routing
from tests.harness.runs import CELLS, artifacts, command, finish, report_without_costs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished run with the transformers engine: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = finish(command(folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_a_run_prints_a_line_for_each_cell_and_ends_with_its_report(undisturbed):
    folder, printed = undisturbed
    assert all(f"✓ {label}: " in printed for label in CELLS)
    assert all((folder / "runs" / "path" / name).exists() for name in ("report.md", "report.html", "results.parquet"))


@pytest.mark.slow
def test_results_are_one_flat_file_that_pandas_reads(undisturbed):
    folder, _ = undisturbed
    frame = pandas.read_csv(folder / "runs" / "path" / "results.csv")
    scores = frame[frame.role != "cost"]
    assert len(scores) == len(CELLS) * 3
    assert set(scores.state) == {"scored"}
    assert (scores.n == 12).all()
    costs = frame[frame.metric == "trainable_parameters"].set_index("method").value
    assert costs["esft-token"] == costs["random-token"] < 0.2 * costs["fft"]


@pytest.mark.slow
def test_the_run_says_how_its_backbone_routes_what_was_chosen_and_what_training_moved(undisturbed):
    folder, _ = undisturbed
    found = routing.read(folder / "runs" / "path")
    assert found.top_k == 6
    assert [(profile.task, profile.sample) for profile in found.profiles] == [("mini-law", 0), ("mini-law", 1)]
    esft, drawn = found.selections
    assert [len(ids) for ids in esft.experts.values()] == [len(ids) for ids in drawn.experts.values()]
    assert esft.experts != drawn.experts
    assert [shift.method for shift in found.shifts] == ["fft", "esft-token", "random-token"]
    assert all(0 < max(shift.distance) < 1 for shift in found.shifts)


@pytest.mark.slow
def test_the_manifest_says_with_what_and_on_what_the_run_was_made(undisturbed):
    folder, _ = undisturbed
    manifest = json.loads((folder / "runs" / "path" / "manifest.json").read_text())
    assert manifest["states"] == {"done": 4}
    assert manifest["versions"]["torch"]
    assert manifest["hardware"]["cores"] >= 1
    assert manifest["finished"] >= manifest["started"]


@pytest.mark.slow
def test_a_finished_run_repeated_computes_nothing(undisturbed):
    folder, _ = undisturbed
    before, report = artifacts(folder), report_without_costs(folder)
    own = {path: path.read_bytes() for path in (folder / "runs" / "path" / "lm_eval").iterdir()}
    assert len(own) == len(CELLS) * 3
    for path in own:
        path.unlink()
    done = finish(command(folder))
    assert done.returncode == 0
    assert artifacts(folder) == before
    assert report_without_costs(folder) == report
    assert {path: path.read_bytes() for path in own} == own, "lm-eval's own files come back from the store"


@pytest.mark.slow
def test_a_run_that_finds_every_step_in_the_store_has_a_manifest_and_the_same_report(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0] / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "path")
    assert finish(command(tmp_path)).returncode == 0
    assert json.loads((tmp_path / "runs" / "path" / "manifest.json").read_text())["states"] == {"done": 4}
    assert report_without_costs(tmp_path) == report_without_costs(undisturbed[0])


@pytest.mark.slow
def test_a_run_killed_in_training_and_in_testing_goes_on_and_reports_what_an_undisturbed_one_does(
    undisturbed, tmp_path
):
    def kill_when(ready) -> dict[str, float]:
        process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 200
        while not ready() and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return artifacts(tmp_path)

    work = tmp_path / "runs" / ".store" / ".work"
    in_training = kill_when(lambda: list(work.glob("*/checkpoint.json")))
    in_testing = kill_when(lambda: any(name.startswith("answers") for name in artifacts(tmp_path)))
    done = finish(command(tmp_path))
    assert done.returncode == 0, done.stderr
    after = artifacts(tmp_path)
    for earlier in (in_training, in_testing):
        assert earlier.items() <= after.items(), "a finished step was done again"
    assert set(after) == set(artifacts(undisturbed[0]))  # keys hash contents: the same weights, the same answers
    assert report_without_costs(tmp_path) == report_without_costs(undisturbed[0])


@pytest.mark.slow
def test_the_vllm_path_gives_the_scores_of_transformers(undisturbed, tmp_path):
    done = finish(command(tmp_path, "vllm"))
    assert done.returncode == 0, done.stderr
    columns = ["method", "benchmark", "value"]
    ours = pandas.read_csv(tmp_path / "runs" / "path" / "results.csv").query("role != 'cost'")[columns]
    theirs = pandas.read_csv(undisturbed[0] / "runs" / "path" / "results.csv").query("role != 'cost'")[columns]
    both = ours.merge(theirs, on=["method", "benchmark"])
    assert len(both) == len(CELLS) * 3
    assert ((both.value_x - both.value_y).abs() <= 100 / 12 + 1e-6).all()  # one item may sit on a rounding edge
    answers = (tmp_path / "runs" / ".store" / "answers").glob("*/manifest.json")
    assert all(json.loads(path.read_text())["measured"]["canary"] < 1e-3 for path in answers)
