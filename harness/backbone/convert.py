"""DeepSeek-MoE-16B (model_type deepseek, 2401.06066) as a checkpoint that transformers and vLLM load: Qwen2-MoE's.

Both are the same network, but for three things, and the weights say the same in the other's words:

    shared experts    there they are added as they are, here times sigmoid(w · x): w = 0 makes that 1/2, and their down
                      projection is doubled, which is exact in any float type
    first layers      without experts there (`first_k_dense_replace`), here `mlp_only_layers`
    attention         without biases there, here with biases of 0 (vLLM knows no Qwen2-MoE without)

What trains everything trains the added gate, 1 × H in a layer, and biases too; what trains attention, the biases.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch import Tensor

from esft_bench.methods.atomic import write_json, write_tensors
from esft_bench.methods.overlay import link
from esft_bench.methods.tensor_files import INDEX, TensorFiles, tensor_files
from esft_bench.spec.errors import UserError

WANTED = {"scoring_func": "softmax", "moe_layer_freq": 1, "rope_scaling": None, "hidden_act": "silu"}
"""What a configuration must say, or leave to its default, for the two networks to be the same."""
SAME = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "initializer_range"),
    *("moe_intermediate_size", "num_experts_per_tok", "norm_topk_prob", "bos_token_id", "eos_token_id", "torch_dtype"),
)
SHARED = ".mlp.shared_experts."
BIASED = tuple(f".self_attn.{part}_proj.weight" for part in "qkv")
ROUTER = ".mlp.gate.weight"


def convert(source: Path, out: Path) -> None:
    """Write the checkpoint `source` into the folder `out`, which must not be there, file by file.

    Raises UserError where `source` is no such checkpoint or `out` is there; MethodError where its weights are damaged.
    """
    config = _config(source)
    if out.exists():
        raise UserError(f"{out} is there already: name a folder that is not.")
    files = tensor_files(source)
    by_file: defaultdict[Path, list[str]] = defaultdict(list)
    for name, path in files.files.items():
        by_file[path].append(name)
    out.mkdir(parents=True)
    index: dict[str, str] = {}
    for path, names in sorted(by_file.items()):
        tensors = {new: tensor for name in names for new, tensor in _converted(name, files)}
        write_tensors(out / path.name, tensors)
        index |= dict.fromkeys(tensors, path.name)
    if len(by_file) > 1:
        write_json(out / INDEX, {"metadata": {}, "weight_map": index})
    for path in source.glob("*.json"):
        if "token" in path.name or path.name == "generation_config.json":
            link(path, out / path.name)
    write_json(out / "config.json", _converted_config(config))


def _config(source: Path) -> dict[str, Any]:
    """The configuration. Raises UserError where it is not that of such a network."""
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{source} holds no checkpoint: its config.json cannot be read ({error}).") from error
    if config.get("model_type") != "deepseek":
        raise UserError(f"{source} is of model_type {config.get('model_type')}; only `deepseek` needs to be converted.")
    for name, value in WANTED.items():
        if config.get(name, value) != value:
            raise UserError(f"{source} has {name} {config[name]}, and only {value} can be converted.")
    if config.get("attention_bias") or not config.get("n_shared_experts"):
        raise UserError(f"{source} has biases in its attention or no shared experts, which cannot be converted.")
    return config


def _converted_config(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        **{name: config[name] for name in SAME if name in config},
        "rope_theta": config.get("rope_theta", 10000.0),
        "num_experts": config["n_routed_experts"],
        "shared_expert_intermediate_size": config["moe_intermediate_size"] * config["n_shared_experts"],
        "mlp_only_layers": list(range(config.get("first_k_dense_replace", 0))),
        "decoder_sparse_step": 1,
        "qkv_bias": True,
        "use_sliding_window": False,
    }


def _converted(name: str, files: TensorFiles) -> list[tuple[str, Tensor]]:
    """A tensor under its new name, and what it brings along: the shared experts' gate, or a bias."""
    tensor = files.read(name)
    if name.endswith(BIASED):
        return [(name, tensor), (name.removesuffix("weight") + "bias", tensor.new_zeros(len(tensor)))]
    if name.endswith(ROUTER):
        gate = tensor.new_zeros(1, tensor.shape[1])
        return [(name, tensor), (name.removesuffix(ROUTER) + ".mlp.shared_expert_gate.weight", gate)]
    if SHARED in name:
        new = name.replace(SHARED, ".mlp.shared_expert.")
        return [(new, 2 * tensor if name.endswith("down_proj.weight") else tensor)]
    return [(name, tensor)]
