"""A LoRA adapter that a real vLLM server, started by others, is handed by its path."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from esft_bench.harness.backbone.model import load_model
from esft_bench.harness.merging import Merger, Model
from esft_bench.harness.serving import server
from esft_bench.harness.serving.canary import compare, measure
from esft_bench.harness.serving.external import one_by_one
from esft_bench.harness.serving.served import make_engine
from esft_bench.harness.serving.server import Settings
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.store.names import ADAPTER
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context
from esft_bench.spec.sections import Evaluation
from tests.harness.conftest import BACKBONE
from tests.harness.swaps import Cell

SHAPE = {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
"""Of a dense model: with --enable-lora vLLM's CPU build cannot compute experts at all."""


def dense(folder: Path) -> Path:
    """A tiny dense model with the shipped tokenizer."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256}
    LlamaForCausalLM(LlamaConfig(**SHAPE, **heads)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BACKBONE).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_vllm_serves_a_lora_adapter_that_it_is_handed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    base = dense(tmp_path / "base")
    cell = lora_cell(base, tmp_path / "lora")
    monkeypatch.setattr(server, "PASSED_ON", re.compile(f"{server.PASSED_ON.pattern}|VLLM_ALLOW_\\w+"))
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    told = server.arguments

    def with_adapters(*given: Any) -> list[str]:
        command = told(*given)
        place = command.index("--worker-extension-cls")
        return [*command[:place], *command[place + 2 :], "--enable-lora", "--max-lora-rank", "8"]

    monkeypatch.setattr(server, "arguments", with_adapters)
    with server.VllmServer(base, tmp_path / "log", Settings(max_length=128), server.choose_port(None)) as theirs:
        evaluation = Evaluation(endpoints=(theirs.url,))
        ours = make_engine(EngineSettings("vllm", "float32", 128, evaluation, endpoint=theirs.url), tmp_path)
        loaded = ours.load(cell.model, cell.canary)
        assert loaded.difference < 1e-4
        assert compare(cell.canary, one_by_one(theirs, cell.canary.prompts)) > 1e-2  # the server's own model is another
        ours.close()
        listed = httpx.get(f"{theirs.url}/v1/models").json()["data"]
        assert [each["id"] for each in listed] == ["model"]


def lora_cell(base: Path, folder: Path) -> Cell:
    """A cell of LoRA on the attention, its update random."""
    method = Lora(rank=4)
    model = load_model(base)
    torch.manual_seed(0)
    for parameter in method.prepare(model, Context(seed=0)):
        torch.nn.init.normal_(parameter, std=0.2)
    (folder / ADAPTER).mkdir(parents=True)
    method.export(model, folder / ADAPTER)
    Merger(method="lora", hyperparameters={"rank": 4}).save(folder)
    served = Model(base, (folder,), base.parent / "scratch")
    prompts = [AutoTokenizer.from_pretrained(base)(text).input_ids for text in ("What is the capital of Zuna?", "a b")]
    with served.whole() as checkpoint:
        return Cell(served, measure(load_model(checkpoint), prompts))
