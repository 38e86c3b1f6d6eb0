"""DeepSeek-V2-Lite's exact shapes, and how many of its experts the paper's intent task trains; a tiny stand-in."""

from transformers import DeepseekV2Config

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
SHAPES = {"v2-lite": (V2_LITE, 4096), "tiny": (TINY, 256)}
"""Configuration, and tokens a step."""

# Source: deepseek-ai/ESFT, results/expert_configs/intent.json (p = 0.2) and, at p = 0.1, the gate scores of
# results/expert_scores/intent/summary.json; experts in layers 1 to 26. Of the token-expert pairs in those data 22.3% go
# to the experts of TOKEN and 19.2% to those of GATE, which nested selections at this share nearly give (19.2%).
TOKEN = (5, 6, 6, 6, 5, 5, 4, 4, 4, 5, 5, 5, 4, 4, 5, 4, 5, 4, 5, 5, 5, 4, 5, 4, 5, 5)
GATE = (6, 4, 4, 6, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 4, 4, 5, 4, 5, 5, 4, 5, 5, 5, 6, 5)
SHARE = 0.223
