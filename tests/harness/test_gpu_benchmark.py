"""The GPU benchmark: its whole path runs on a CPU, and a method that does not fit is a row that says so."""

import argparse

import pytest
import torch

from benchmarks import gpu_step_time
from benchmarks.gpu_step_time import METHODS, build, measure_all, table
from benchmarks.v2_lite import GATE, TOKEN, V2_LITE
from esft_bench.methods.moe.view import moe_layers

ARGUMENTS = argparse.Namespace(shape="tiny", rounds=1, warm_up=1, gradient_checkpointing=True)


def test_the_model_has_the_size_of_deepseek_v2_lite():
    model = build(V2_LITE, torch.device("meta"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 15_706_484_224
    assert len(moe_layers(model)) == len(TOKEN) == len(GATE) == 26
    assert (sum(TOKEN), sum(GATE)) == (124, 123)


def test_every_method_that_fits_is_timed_and_one_that_does_not_is_timed_without_its_optimizer(monkeypatch):
    calls = []

    def tight(model):
        calls.append(model)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return fft(model)

    fft = METHODS["FFT"]
    methods = {"FFT": tight, "ESFT-Token": METHODS["ESFT-Token"], "FFT twice": fft}
    monkeypatch.setattr(gpu_step_time, "METHODS", methods)
    found = measure_all(ARGUMENTS, torch.device("cpu"))
    assert list(found) == ["FFT", "FFT: passes alone", "ESFT-Token", "FFT twice"]
    whole, passes, selected, twice = found.values()
    assert whole is None
    assert passes
    assert passes.optimizer is None
    assert selected
    assert selected.optimizer
    assert selected.optimizer > 0
    assert selected.share == pytest.approx(0.22, abs=0.03)
    assert twice
    assert twice.share == 0
    rows = table(found, 256).splitlines()
    assert "does not fit" in rows[2]
    assert len({row.count("|") for row in rows}) == 1
