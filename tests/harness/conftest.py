"""Two random checkpoints with the shipped backbone's layout, their canaries, and one vLLM server for the session."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.serving.canary import Canary, measure
from harness.serving.engines import VllmEngine
from harness.serving.server import Settings

BACKBONE = Path(__file__).parents[2] / "tasks" / "mini" / "backbone"


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    canary: Canary


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """Three models of one layout and random weights, as merged cells of a run would be."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE)
    prompts = [
        tokenizer(text).input_ids for text in ("User: What is the capital of Zuna?\n\nAssistant: Reville", "a b c")
    ]
    made = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp(f"checkpoint-{seed}")
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BACKBONE)).eval()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made.append(Checkpoint(folder, measure(model, prompts)))
    return made


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    pytest.importorskip("vllm")
    engine = VllmEngine(tmp_path_factory.mktemp("server"), Settings(max_length=512))
    yield engine
    engine.close()
