"""The whole path, from the command line to the report, on the backbone that ships."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas
import psutil
import pytest

from esft_bench.spec import routing

SUITE = """\
name: path
tasks: [mini-law]
general: [mini-facts, mini-science]
alignment: mini-alignment
methods:
  base: {title: Base}
  fft: {title: FFT, learning_rate: 9.0e-4}
  esft-token: {title: ESFT-Token, learning_rate: 1.1e-2, p: 0.2}
  random-token: {title: Random, ablates: esft-token}
training: {steps: 60, batch_size: 2, sequence_length: 128}
profiling: {sequences: 4, sequence_length: 128, after_training: true}
evaluation: {engine: ENGINE, max_length: 512, limit: 12}
"""
CELLS = ["base", "fft · mini-law · seed 0", "esft-token · mini-law · seed 0", "random-token · mini-law · seed 0"]


def command(folder: Path, engine: str = "transformers", *more: str) -> list[str]:
    suite = folder / "path.yaml"
    suite.write_text(SUITE.replace("ENGINE", engine))
    return [sys.executable, "-m", "esft_bench.harness.cli", "run", str(suite), "--run-dir", str(folder / "runs"), *more]


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=280)


def report_without_costs(folder: Path) -> str:
    """The report without the sections that speak of time and memory, which no two runs share."""
    report = (folder / "runs" / "path" / "report.md").read_text()
    for title in ("Which method for this task?", "Efficiency"):
        before, _, after = report.partition(f"## {title}")
        report = before + after.partition("\n## ")[2]
    return report.replace(str(folder), "FOLDER")


def artifacts(folder: Path) -> dict[str, float]:
    """Each finished artifact and when it was finished."""
    store = folder / "runs" / ".store"
    manifests = [path for path in store.glob("*/*/manifest.json") if not path.parent.name.startswith(".")]
    return {path.parent.relative_to(store).as_posix(): path.stat().st_mtime for path in manifests}


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
    in_training = kill_when(lambda: list(work.glob("*/checkpoint.safetensors")))
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


@pytest.mark.slow
def test_a_run_stopped_from_the_keyboard_says_how_to_go_on_and_leaves_no_process(tmp_path):
    interruptible = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command(tmp_path), stdout=pipe, stderr=pipe, text=True, **interruptible)
    work = tmp_path / "runs" / ".store" / ".work"
    while not list(work.glob("*")):
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on where it was." in complaint
    assert "Traceback" not in complaint
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


@pytest.mark.slow
def test_a_port_in_use_is_refused_before_anything_is_trained(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = finish(command(tmp_path, "vllm", f"--set=evaluation.port={taken.getsockname()[1]}"))
    assert done.returncode == 2
    assert "is in use" in done.stderr
    assert not artifacts(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 12 MB: room for data and ESFT's adapter, not for the 16 MB of full fine-tuning's."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_sentence_and_loses_nothing_that_was_finished(small_disk):
    first = finish(command(small_disk, "transformers", "--only", "method=esft-token", "--workers", "1"))
    assert (first.returncode, "No disk space left" in first.stderr) == (2, True)  # merging needs 16 MB, too
    finished = artifacts(small_disk)
    assert any(name.startswith("train/") for name in finished)
    second = finish(command(small_disk, "transformers", "--only", "method=fft"))
    assert second.returncode == 2
    assert "No disk space left" in second.stderr
    assert "Traceback" not in second.stderr
    assert artifacts(small_disk) == finished
