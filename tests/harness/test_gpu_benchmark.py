"""The GPU benchmark: its path runs on a CPU, and a row that does not fit, breaks or hangs says so."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu.measure import measure
from benchmarks.gpu.page import page
from benchmarks.gpu.records import ESTIMATES, STEPS, add, estimate_all, read
from benchmarks.gpu.rows import ROWS
from benchmarks.gpu.shapes import SHAPES
from esft_bench.methods.moe.view import moe_layers

TINY = [("tiny", "FFT, all in bf16, passes alone"), ("tiny", "FFT"), ("tiny", "ESFT-Token")]


@pytest.mark.parametrize(
    ("name", "parameters", "layers"), [("v2-lite", 15_706_484_224, 26), ("olmoe", 6_919_161_856, 16)]
)
def test_models_have_the_sizes_of_the_real_ones(name, parameters, layers):
    model = SHAPES[name].build(torch.device("meta"))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(moe_layers(model)) == layers


def test_rows_are_measured_beside_what_plan_expects_of_them(tmp_path):
    benchmark.run_here(TINY, tmp_path, limit=300)
    estimate_all(["tiny"], tmp_path)
    about, rate, passes, whole, selected = read(tmp_path / STEPS)
    assert "torch" in about["versions"]
    assert rate["product_rate"] > 0
    assert passes["optimizer"] is None
    assert whole["optimizer"] > 0
    assert whole["share"] == 0
    assert whole["trained"] == passes["trained"] > 10 * selected["trained"]
    assert selected["share"] == pytest.approx(0.2, abs=0.03)
    expected = {record["row"]: record for record in read(tmp_path / ESTIMATES)}
    assert expected["ESFT-Token"]["trainable_parameters"] == selected["trained"]
    assert expected["ESFT-Token"]["operations"] < 0.7 * expected["FFT"]["operations"]
    rows = [line for line in page(tmp_path).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(TINY)
    assert len({row.count("|") for row in rows}) == 1
    assert " 1.00 |" in rows[3]


def test_a_row_that_does_not_fit_says_so_and_the_next_one_is_measured(tmp_path, monkeypatch):
    def tight(shape, row, device, profile):
        if not row.checkpointing:
            raise torch.OutOfMemoryError
        return measure(shape, row, device, profile)

    monkeypatch.setattr("benchmarks.gpu.__main__.measure", tight)
    benchmark.run_here([TINY[2], ("tiny", "ESFT-Token, gradient checkpointing")], tmp_path, limit=300)
    *_, first, second = read(tmp_path / STEPS)
    assert first["why_not"] == "does not fit"
    assert second["passes"] > 0
    assert "| ESFT-Token | does not fit |" in page(tmp_path)


def test_a_row_that_hangs_is_ended_and_the_others_are_measured(tmp_path):
    """Every row hangs where none may take any time: each costs its own process, none stops the run."""
    options = ["--shape", "tiny", "--row", "FFT", "--row", "ESFT-Token", "--limit", "0.01", "--seconds", "200"]
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    records = [record for record in read(tmp_path / STEPS) if "row" in record]
    assert [record["row"] for record in records] == ["FFT", "ESFT-Token"]
    assert all("more than 0 s" in record["why_not"] for record in records)
    assert done.stdout.endswith((tmp_path / "page.md").read_text() + "\n")


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    add(tmp_path / STEPS, shape="tiny", row="FFT")
    with (tmp_path / STEPS).open("a") as file:
        file.write(json.dumps({"shape": "tiny"})[:5])
    assert [record["row"] for record in read(tmp_path / STEPS)] == ["FFT"]


def test_names_of_rows_say_which_of_ours_they_are_variants_of():
    """Operations of a variant are those of the method whose name its own begins with."""
    own = [name for name, row in ROWS.items() if row.mixed and not row.experts]
    assert all(any(name.startswith(first) for first in own) for name in ROWS)
