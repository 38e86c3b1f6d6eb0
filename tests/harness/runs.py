"""Runs of small suites, each in a folder of its own, from the command line or in the process that asks."""

import io
import subprocess
import sys
from pathlib import Path

from esft_bench.harness.commands.options import RunOptions, SuiteOptions
from esft_bench.harness.commands.prepare import prepare
from esft_bench.harness.commands.run import execute
from esft_bench.harness.terminal import Terminal

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


def carry_out(suite: SuiteOptions) -> Path:
    """Carry a suite out in this process, in which all is imported; no cell fails. Returns the run's folder."""
    made, said = prepare(suite), io.StringIO()
    failures = execute(made, RunOptions(workers=1), Terminal(file=said, width=1000), "esft-bench run")
    assert failures == {}, said.getvalue()
    return made.folder


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
    manifests = [path for path in store.glob("[!.]*/*/manifest.json") if not path.parent.name.startswith(".")]
    return {path.parent.relative_to(store).as_posix(): path.stat().st_mtime for path in manifests}
