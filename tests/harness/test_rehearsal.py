"""The rehearsal: what would fail after the training of a row is said before anything is trained."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoeConfig, PhimoeConfig

from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.commands.run import execute
from esft_bench.harness.terminal import Terminal
from tests.conftest import COMMON
from tests.harness.conftest import BACKBONE
from tests.harness.plans import prepared

METHODS = """\
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora


class ExportFails(FullFineTuning):
    name = "export-fails"

    def export(self, model, folder):
        raise RuntimeError("no such tensor")


class MergeFails(FullFineTuning):
    name = "merge-fails"

    def merge(self, base, adapter, out):
        raise RuntimeError("shapes differ")


class MergesSomethingElse(Lora):
    name = "merges-something-else"

    def merge(self, base, adapter, out):
        from safetensors.torch import load_file, save_file

        super().merge(base, adapter, out)
        path = out / "model.safetensors"
        save_file({name: weight.flip(0) for name, weight in load_file(path).items()}, path, {"format": "pt"})
"""
SUITE = """\
name: tried
backbone: {path: BACKBONE}
tasks: [mini-law, mini-summary]
alignment: mini-alignment
methods: {METHODS}
training: {steps: 2, batch_size: 2, sequence_length: 128}
profiling: {sequences: 2, sequence_length: 128}
evaluation: {engine: ENGINE, max_length: 256, limit: 2}
"""


def checkpoint(folder: Path, config=OlmoeConfig, **changes: object) -> Path:
    """A tiny random model with the shipped tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE)
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    shape = {"num_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 16, "max_position_embeddings": 512}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**(COMMON | shape | ids | changes)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """A folder that, on Python's path, adds methods that go wrong."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "wrong.py").write_text(METHODS)
    info = folder / "wrong-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1.0\n")
    points = "export-fails = wrong:ExportFails\nmerge-fails = wrong:MergeFails\n"
    (info / "entry_points.txt").write_text(
        f"[esft_bench.methods]\n{points}merges-something-else = wrong:MergesSomethingElse\n"
    )
    return folder


def suite_of(methods: str, backbone: Path, engine: str = "transformers") -> str:
    return SUITE.replace("BACKBONE", str(backbone)).replace("{METHODS}", methods).replace("ENGINE", engine)


@pytest.fixture
def run(tmp_path, backbone, plugins):
    """`run(methods)`: how a run of a suite of these rows ended, and the artifacts there are."""

    def go(methods, *more, engine="transformers", on=backbone):
        suite = tmp_path / "tried.yaml"
        suite.write_text(suite_of(methods, on, engine))
        command = [
            sys.executable,
            "-m",
            "esft_bench.harness.cli",
            "run",
            str(suite),
            "--run-dir",
            str(tmp_path / "runs"),
        ]
        path = os.pathsep.join([str(plugins), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, timeout=280, env=os.environ | {"PYTHONPATH": path}
        )
        kinds = {path.parts[-3] for path in (tmp_path / "runs" / ".store").glob("*/*/manifest.json")}
        return done, kinds

    return go


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("export-fails", "no such tensor"),
        ("merge-fails", "shapes differ"),
        ("merges-something-else", "computed when it was trained"),
    ],
)
def test_a_row_that_would_fail_after_its_training_is_refused_before_it(run, tmp_path, method, why):
    done, kinds = run(f"{{fft: {{}}, odd: {{method: {method}}}}}")
    assert done.returncode == 2
    assert "methods.odd fails in the rehearsal, before anything is trained: " in done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert not kinds
    assert not (tmp_path / "runs" / ".store" / ".work" / "rehearsal").exists()


@pytest.mark.slow
def test_processes_that_hold_some_experts_each_rehearse_what_they_are_to_train(run):
    done, kinds = run("{odd: {method: merge-fails}}", "--set", "training.expert_parallel=2")
    assert done.returncode == 2
    assert "methods.odd fails in the rehearsal, before anything is trained: RuntimeError: shapes differ" in done.stderr
    assert not kinds


@pytest.mark.slow
def test_rows_of_every_kind_are_rehearsed_once_and_not_where_the_suite_says_never(tmp_path, backbone):
    methods = "{base: {}, fft: {}, esft-token: {p: 0.2}, again: {method: esft-token, p: 0.2, learning_rate: 1.0e-3}, "
    text = suite_of(methods + "wide: {method: esft-token, p: 0.4}, das-tune: {count: 2}}", backbone)
    store = tmp_path / "runs" / ".store"

    def run(**options: object) -> str:
        said = io.StringIO()
        made = prepared(tmp_path, text, **options)
        assert execute(made, RunOptions(workers=2), Terminal(file=said, width=1000), "esft-bench run") == {}
        return said.getvalue()

    assert "rehearsing" not in run(set=["rehearse=never"], only="method=base")
    assert "rehearsing" in run()
    assert len(list((store / "rehearsed").iterdir())) == 4  # base is tested, and rates are all the same in a rehearsal
    assert not list((store / "rehearsal").glob("*"))
    for trained in (store / "train").iterdir():
        if '"label": "base"' not in (trained / "manifest.json").read_text():
            shutil.rmtree(trained)
    assert "rehearsing" not in run()


@pytest.mark.slow
def test_a_model_that_the_engine_cannot_serve_is_refused_before_anything_is_trained(run, tmp_path):
    pytest.importorskip("vllm")
    on = checkpoint(tmp_path / "other", PhimoeConfig, num_local_experts=4)
    done, kinds = run("{fft: {}}", engine="vllm", on=on)
    assert done.returncode == 2
    assert "methods.fft fails in the rehearsal" in done.stderr
    assert not kinds
