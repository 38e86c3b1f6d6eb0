"""Cells of one backbone that change different parts of it, each with the canary of its merged checkpoint."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from esft_bench.harness.backbone.model import load_model
from esft_bench.harness.merging import Merger, Model
from esft_bench.harness.serving.canary import Canary, measure
from esft_bench.harness.store.names import ADAPTER
from tests.conftest import build
from tests.harness.conftest import BACKBONE

COMMON = {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 256}
NARROW = {"intermediate_size": 32}
MLA = {"kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32}
SIZES: dict[str, dict[str, Any]] = {
    "deepseek-v2": {**MLA, "moe_intermediate_size": 32},
    "deepseek-v3": {
        **MLA,
        "moe_intermediate_size": 32,
        "q_lora_rank": 64,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
    "qwen2-moe": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "qwen3-moe": {"moe_intermediate_size": 32, "head_dim": 32},
    "olmoe": NARROW,
    "mixtral": NARROW,
    "granite-moe": NARROW,
    "gpt-oss": {**NARROW, "head_dim": 32},
}
"""What vLLM's kernels need of the tiny models besides."""

EXPERTS = (
    r"layers\.1\..*experts\.[13]\.|layers\.2\..*experts\.2\.(down_proj|w2)|layers\.1\..*(output_linear|down_proj$)"
)
OTHERS = r"layers\.0\..*(q_proj|o_proj|q_a_proj|kv_b_proj)|layers\.2\..*(gate\.weight|router)|1\..*layernorm|lm_head"
PARTS = {"experts": EXPERTS, "others": OTHERS, "all": r"."}
"""Names of the tensors that a cell changes. The first two have no layer in common but for a router beside experts."""


@dataclass(frozen=True)
class Cell:
    """A model to serve and what it answers."""

    model: Model
    canary: Canary


def backbone(architecture: str, folder: Path) -> Path:
    """A tiny model of an architecture with the shipped tokenizer, in `folder/base`."""
    build(architecture, **(COMMON | SIZES[architecture])).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(BACKBONE).save_pretrained(folder / "base")
    return folder / "base"


def cells(base: Path, parts: Mapping[str, str] = PARTS) -> dict[str, Cell]:
    """The backbone (`base`), and one cell for each part: the tensors of these names with noise on them."""
    tensors = load_file(base / "model.safetensors")
    made = {"base": _cell(base, ())}
    torch.manual_seed(1)
    for part, names in parts.items():
        changed = {name: _disturbed(tensor) for name, tensor in tensors.items() if re.search(names, name)}
        assert changed, names
        made[part] = _cell(base, (training(base.parent / part, changed),))
    return made


def training(folder: Path, changed: dict[str, Tensor]) -> Path:
    """The artifact of a training that changed these tensors."""
    (folder / ADAPTER).mkdir(parents=True)
    save_file(changed, folder / ADAPTER / "adapter_model.safetensors")
    Merger(method="fft", hyperparameters={}).save(folder)
    return folder


def _disturbed(tensor: Tensor) -> Tensor:
    return tensor + 0.3 * tensor.std() * torch.randn(tensor.shape) if tensor.numel() > 1 else tensor * 1.1


def _cell(base: Path, trained: tuple[Path, ...]) -> Cell:
    model = Model(base, trained, base.parent / "scratch")
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [tokenizer(text).input_ids for text in ("User: What is the capital of Zuna?\n\nAssistant:", "a b c")]
    with model.whole() as checkpoint:
        return Cell(model, measure(load_model(checkpoint), prompts))
