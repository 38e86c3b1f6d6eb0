"""The exact shapes of two real models, a tiny stand-in, and how their tokens are routed.

A random router spreads tokens evenly, a trained one does not, and the time of methods that train some experts depends
on that. So the experts that tokens go to are drawn, with the odds that `plan` assumes where nothing has been profiled:
p = 0.2 then takes 5 of 64 experts, as in the profiles that the ESFT paper released. All methods meet the same draw.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DeepseekV2Config, OlmoeConfig, PretrainedConfig, PreTrainedModel

from esft_bench.methods.method import Context
from esft_bench.methods.moe.assumed import assumed_profiles
from esft_bench.methods.moe.router_scores import SeenRouter
from esft_bench.methods.moe.view import moe_layers

# Source: config.json of allenai/OLMoE-1B-7B-0924.
OLMOE = OlmoeConfig(
    vocab_size=50304,
    hidden_size=2048,
    intermediate_size=1024,
    num_hidden_layers=16,
    num_attention_heads=16,
    num_key_value_heads=16,
    num_experts=64,
    num_experts_per_tok=8,
    norm_topk_prob=False,
    tie_word_embeddings=False,
)
# Source: config.json of deepseek-ai/DeepSeek-V2-Lite.
V2_LITE = DeepseekV2Config(
    vocab_size=102400,
    hidden_size=2048,
    intermediate_size=10944,
    moe_intermediate_size=1408,
    num_hidden_layers=27,
    num_attention_heads=16,
    num_key_value_heads=16,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    first_k_dense_replace=1,
    kv_lora_rank=512,
    q_lora_rank=None,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    routed_scaling_factor=1.0,
    topk_method="greedy",
    norm_topk_prob=False,
    tie_word_embeddings=False,
)
TINY = DeepseekV2Config(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=96,
    moe_intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=2,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    first_k_dense_replace=1,
    kv_lora_rank=16,
    q_lora_rank=None,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
)


@dataclass(frozen=True)
class Shape:
    """A model's name and configuration, and the tokens of a step, one sequence."""

    title: str
    config: PretrainedConfig
    tokens: int

    def build(self, device: torch.device) -> PreTrainedModel:
        """The model with random weights, made on the device in bf16: nothing passes through main memory."""
        torch.manual_seed(0)
        with device:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(self.config, dtype=torch.bfloat16)
        return model.train()


SHAPES = {
    "olmoe": Shape("OLMoE-1B-7B", OLMOE, 4096),
    "v2-lite": Shape("DeepSeek-V2-Lite", V2_LITE, 4096),
    "tiny": Shape("a tiny model", TINY, 256),
}


def assumed_context(model: PreTrainedModel) -> Context:
    """What methods choose experts by: profiles as `plan` assumes them."""
    task, general = assumed_profiles(moe_layers(model))
    return Context(seed=0, profile=task, general=general)


def draw_routing(model: PreTrainedModel, context: Context, tokens: int) -> dict[int, Tensor]:
    """From now on send the tokens of a step to experts drawn as the profile has them; returns them, [T, K] by layer.

    Their gate weights are the router's own scores of them: gradients go the way they go in training.
    """
    assert context.profile is not None
    generator = torch.Generator(model.device).manual_seed(0)
    drawn = {}
    for (number, layer), counts in zip(moe_layers(model).items(), context.profile.token_counts, strict=True):
        odds = counts.to(model.device, torch.float32).expand(tokens, -1)
        drawn[number] = torch.multinomial(odds, layer.top_k, generator=generator)
        assert layer.router is not None
        seen = SeenRouter(layer, remembers=True)
        model.get_submodule(layer.router).register_forward_hook(seen.see)
        layer.experts.register_forward_pre_hook(partial(_reroute, seen, drawn[number]))
    return drawn


def _reroute(seen: SeenRouter, drawn: Tensor, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What an experts module is called with, its choice of experts replaced by the one `drawn`, [T, K]."""
    hidden, index, weights, *rest = args
    scores = seen.scores(index, weights.detach() / seen.layer.scaling)
    seen.output = ()  # no graph is kept beyond the step
    assert scores is not None
    return hidden, drawn, (scores.gather(1, drawn) * seen.layer.scaling).to(weights.dtype), *rest
