"""What vLLM has to be told for an architecture and a machine, whoever starts it: options and environment variables."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esft_bench.spec.errors import UserError

SMALL_HIDDEN_SIZE = 512
"""Up to this width one thread serves a model fastest."""
MLA_KERNEL_WIDTH = 576
"""kv_lora_rank + qk_rope_head_dim that vLLM's MLA kernels are built for."""


@dataclass(frozen=True)
class Needs:
    """Options of `vllm serve` and variables, without which it fails on a checkpoint or serves it wrongly.

    `on_cpu` are the options that a machine without a GPU needs besides.
    """

    options: dict[str, str]
    environment: dict[str, str]
    on_cpu: dict[str, str]


def model_config(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's config.json, with the fields of its text model. Raises UserError if there is none."""
    try:
        config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint} is not a Hugging Face checkpoint: its config.json cannot be read") from error
    text: dict[str, Any] = config.get("text_config") or {}
    return config | text


def served_length(config: dict[str, Any], most: int) -> int:
    """Tokens a sequence may have: `most`, or as many as the model reads."""
    return min(most, int(config.get("max_position_embeddings") or most))


def takes_one_core(config: dict[str, Any]) -> bool:
    """Whether a server of a model computes on a single core of a machine without a GPU, unless told."""
    return int(config.get("hidden_size") or 0) <= SMALL_HIDDEN_SIZE


def needs(config: dict[str, Any]) -> Needs:
    """What a model of this configuration needs."""
    options, environment, on_cpu = {}, {}, {}
    if "n_group" in config and config["n_group"] is None:
        # What transformers leaves out, one group of experts, vLLM wants spelled out.
        options["--hf-overrides"] = json.dumps({"n_group": 1, "topk_group": 1})
    if config.get("kv_lora_rank"):
        if config["kv_lora_rank"] + config["qk_rope_head_dim"] != MLA_KERNEL_WIDTH:
            environment["VLLM_MLA_DISABLE"] = "1"
        # The CPU build's rotary operator is silently wrong for multi-head latent attention.
        on_cpu["--compilation-config"] = json.dumps({"custom_ops": ["all", "-rotary_embedding"]})
    return Needs(options, environment, on_cpu)
