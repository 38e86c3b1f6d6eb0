"""Tiny random mixture-of-experts models, one of each architecture, in float32."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))  # children import `tests`, wherever they start

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

hypothesis.settings.register_profile("esft-bench", hypothesis.settings(), deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("esft-bench")

COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek-v2": (
        "DeepseekV2Config",
        {
            "kv_lora_rank": 16,
            "q_lora_rank": None,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 4.0,
        },
    ),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        {
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "head_dim": 16},
    ),
    "olmoe": ("OlmoeConfig", {"num_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 16}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 16}),
    "deepseek-v3": (
        "DeepseekV3Config",
        {
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "num_experts_per_tok": 3,
            "n_group": 4,
            "topk_group": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 2.5,
        },
    ),
    "granite-moe": ("GraniteMoeConfig", {"num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 16}),
    "gpt-oss": (
        "GptOssConfig",
        {"num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 16, "head_dim": 16},
    ),
}
"""gpt-oss and GraniteMoE keep a layer's experts in one tensor in checkpoints, the others have a tensor for each."""
DENSE: tuple[str, dict[str, Any]] = ("LlamaConfig", {})


def build(architecture: str, **changes: Any) -> PreTrainedModel:
    """A random model of an architecture (`dense` for one without experts), the same each time."""
    name, settings = DENSE if architecture == "dense" else ARCHITECTURES[architecture]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**(COMMON | settings | changes))
    model = AutoModelForCausalLM.from_config(config).eval()
    for key, tensor in model.state_dict().items():  # what starts as zeros and would hide a mistake
        if key.endswith(("bias", "sinks")):
            tensor.normal_(std=0.2)
    return model


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; the test is skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("skipped, no data")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture
def tiny_model() -> Callable[..., PreTrainedModel]:
    """`tiny_model(architecture)`: a random MoE model; see ARCHITECTURES."""
    return build


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """`tiny_checkpoint(architecture)`: the folder of such a model, as a hub checkpoint would be."""

    def save(architecture: str) -> Path:
        folder = tmp_path / f"{architecture}-base"
        build(architecture).save_pretrained(folder)
        return folder

    return save
