"""How many accelerators a served model takes (tensor parallelism), by its weights and the longest sequence's cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.plan.price.hardware import GIB, MARGIN, Accelerator
from esft_bench.harness.serving.needs import model_config, served_length
from esft_bench.spec.errors import UserError

COUNTS = (1, 2, 4, 8)
"""How many share a model: those of one node, and a power of two, as vLLM slices attention heads evenly."""
BESIDES = 2 * GIB
"""Taken to be what each device needs for activations, kernels' workspace and captured graphs."""


@dataclass(frozen=True)
class Serving:
    """Serving the backbone.

    Attributes:
        devices: accelerators that share it; 0 where not even the most hold it.
        bytes_each: what each of them holds at least, of the most where none do.
        chosen: whether the suite says how many.
    """

    devices: int
    bytes_each: float
    chosen: bool = False


def serving(plan: Plan, device: Accelerator) -> Serving:
    """How many of a device serve a plan's backbone, as the suite has it or else as few as hold it."""
    config = model_config(plan.backbone.path)
    weights, cache = served_bytes(plan, config)
    wanted = plan.suite.evaluation.tensor_parallel
    heads = int(config.get("num_attention_heads") or 1)
    possible = [wanted] if wanted else [count for count in COUNTS if heads % count == 0]
    for count in possible:
        each = weights / count + cache / cache_parts(config, count) + BESIDES
        if each <= MARGIN * device.memory:
            return Serving(count, each, bool(wanted))
    return Serving(wanted or 0, each, bool(wanted))


def served_bytes(plan: Plan, config: dict[str, Any]) -> tuple[float, float]:
    """Bytes of the weights as they are served, and of the keys and values of one sequence: vLLM starts with no less.

    Multi-head latent attention keeps a latent vector and the rotary key of each token, for all heads together.
    """
    from esft_bench.harness.backbone.model import empty_model  # here: transformers takes seconds to import

    width = 4 if plan.engine.dtype == "float32" else 2
    model = empty_model(plan.backbone.path, plan.suite.backbone.trust_remote_code)
    weights = sum(prod(parameter.shape) for parameter in model.parameters())
    heads = int(config.get("num_attention_heads") or 1)
    if config.get("kv_lora_rank"):
        of_token = int(config["kv_lora_rank"]) + int(config["qk_rope_head_dim"])
    else:
        size = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
        of_token = 2 * size * int(config.get("num_key_value_heads") or heads)
    tokens = served_length(config, plan.engine.max_length) * int(config.get("num_hidden_layers") or 1)
    return float(weights * width), float(tokens * of_token * width)


def cache_parts(config: dict[str, Any], devices: int) -> int:
    """In how many parts the keys and values lie on so many devices: by heads, and a latent vector whole on each."""
    heads = int(config.get("num_attention_heads") or 1)
    return 1 if config.get("kv_lora_rank") else min(devices, int(config.get("num_key_value_heads") or heads))


def gpus_to_serve(plan: Plan, cards: Sequence[tuple[str, float]], most: int) -> int:
    """The accelerators that serve a plan's backbone, of the smallest of `cards` (name, bytes); 1 without any.

    Raises UserError where `most`, those of the largest node, do not hold it, or are fewer than the suite names.
    """
    wanted = plan.suite.evaluation.tensor_parallel
    if plan.engine.external or plan.suite.evaluation.engine != "vllm":
        return 1
    if wanted and wanted > most:
        raise UserError(f"evaluation.tensor_parallel: {wanted} are wanted to serve a model, and a machine has {most}.")
    if wanted or not cards:
        return wanted or 1
    name, memory = min(cards, key=lambda card: card[1])
    found = serving(plan, Accelerator(name, memory, 1.0, 1.0))
    if not 1 <= found.devices <= most:
        raise UserError(
            f"Serving the backbone takes {found.bytes_each / GIB:.0f} GiB of each of {found.devices or COUNTS[-1]} × "
            f"{name} with {memory / GIB:.0f} GiB, and a machine has {most}: name servers that others run under "
            "evaluation.endpoints, or lower evaluation.max_length."
        )
    return found.devices
