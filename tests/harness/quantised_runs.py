"""Runs of a small suite on quantised backbones."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DeepseekV3Config, GptOssConfig

from esft_bench.harness.commands.options import RunOptions, SuiteOptions
from esft_bench.harness.commands.prepare import Prepared, prepare
from esft_bench.harness.commands.run import execute
from esft_bench.harness.terminal import Terminal
from tests.conftest import ARCHITECTURES, COMMON
from tests.harness.conftest import BACKBONE
from tests.harness.quantised import quantise

SUITE = """\
name: tried
backbone: {path: FOLDER}
tasks: [mini-law]
methods:
  base: {title: Base}
  esft-token: {title: ESFT-Token, learning_rate: 1.1e-2, p: 0.3}
training: {steps: 2, batch_size: 2, sequence_length: 128}
profiling: {sequences: 2, sequence_length: 128}
evaluation: {engine: transformers, max_length: 256, limit: 2}
rehearse: never
"""
CONFIGS = {"fp8": (DeepseekV3Config, "deepseek-v3"), "mxfp4": (GptOssConfig, "gpt-oss")}
ALONE = RunOptions(workers=1)
SHAPES = {"fp8": {"hidden_size": 160}, "mxfp4": {"hidden_size": 64, "intermediate_size": 32}}


def quantised(folder: Path, method: str) -> tuple[Path, Path]:
    """A quantised checkpoint with the shipped tokenizer, and the bfloat16 one that it stands for."""
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE)
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    make, architecture = CONFIGS[method]
    settings = COMMON | ARCHITECTURES[architecture][1] | {"max_position_embeddings": 512} | SHAPES[method] | ids
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(make(**settings), dtype=torch.bfloat16).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return quantise(folder / "base", method)


def planned(folder: Path, backbone: Path, *, weights: bool = True, changes: Sequence[str] = ()) -> Prepared:
    """The suite on a backbone, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    suite = folder / "suite.yaml"
    suite.write_text(SUITE.replace("FOLDER", str(backbone)))
    made = prepare(SuiteOptions(str(suite), run_dir=folder / "runs", set=list(changes)), weights=weights)
    made.folder.mkdir(exist_ok=True, parents=True)
    return made


def run(folder: Path, backbone: Path, *changes: str) -> str:
    """Carry it out; returns what was said."""
    said = io.StringIO()
    assert not execute(
        planned(folder, backbone, changes=changes), RunOptions(workers=1), Terminal(file=said, width=1000), "run"
    )
    return said.getvalue()


def made_in(folder: Path) -> list[str]:
    """The contents of the artifacts that are made from the backbone."""
    store = folder / "runs" / ".store"
    found = (store.glob(f"{kind}/*/manifest.json") for kind in ("profile", "train", "questions", "answers"))
    return sorted(json.dumps(json.loads(path.read_text())["files"]) for paths in found for path in paths)
