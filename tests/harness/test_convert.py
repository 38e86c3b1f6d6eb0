"""DeepSeek-MoE's layout: a tiny model of its shape gives the same logits once it is converted."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from esft_bench.harness.backbone.convert import convert
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.method import Context
from esft_bench.spec.errors import UserError
from tests.methods.helpers import logits, profiled, tokens

CONFIG = {
    "model_type": "deepseek",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}


class Mixture(nn.Module):
    """DeepSeek-MoE's layer as its paper writes it: shared experts plus the top-k of a softmax over the routed ones."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, shared = 16, 2
        part = LlamaConfig(**(config.to_dict() | {"intermediate_size": width}))
        self.gate = nn.Linear(32, 8, bias=False)
        self.experts = nn.ModuleList(LlamaMLP(part) for _ in range(8))
        self.shared_experts = LlamaMLP(LlamaConfig(**(config.to_dict() | {"intermediate_size": width * shared})))

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, 1)
        gates, chosen = self.gate(rows).softmax(-1).topk(3, dim=-1)
        routed = torch.stack(
            [
                sum(g * self.experts[int(e)](row) for g, e in zip(gate, ids, strict=True))
                for row, gate, ids in zip(rows, gates, chosen, strict=True)
            ]
        )
        whole: Tensor = routed + self.shared_experts(rows)
        return whole.view_as(hidden)


@pytest.fixture
def original(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A random checkpoint in DeepSeek-MoE's layout, in two files, and the model it is of."""
    torch.manual_seed(0)
    config = LlamaConfig(**{k: v for k, v in CONFIG.items() if k != "model_type"})
    model = LlamaForCausalLM(config)
    for layer in model.model.layers[1:]:
        layer.mlp = Mixture(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    folder = tmp_path / "original"
    folder.mkdir()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    parts = {"model-1.safetensors": list(weights)[::2], "model-2.safetensors": list(weights)[1::2]}
    for file, names in parts.items():
        save_file({name: weights[name] for name in names}, folder / file, {"format": "pt"})
    where = {name: file for file, names in parts.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder, model.eval()


def test_the_converted_checkpoint_computes_what_the_original_does(
    original: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder, model = original
    convert(folder, tmp_path / "converted")
    found, told = AutoModelForCausalLM.from_pretrained(
        tmp_path / "converted", dtype=torch.float32, output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    with torch.no_grad():
        expected = model(input_ids=tokens()).logits
    torch.testing.assert_close(logits(found), expected, atol=1e-4, rtol=1e-4)
    assert EsftToken().prepare(found, Context(0, profiled(found)))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"model_type": "llama"}, "model_type llama"),
        ({"scoring_func": "sigmoid"}, "scoring_func sigmoid"),
        ({"attention_bias": True}, "biases in its attention"),
    ],
)
def test_what_is_another_network_is_refused(
    original: tuple[Path, nn.Module], tmp_path: Path, changed: dict[str, object], sentence: str
) -> None:
    folder, _ = original
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    with pytest.raises(UserError, match=sentence):
        convert(folder, tmp_path / "converted")


def test_nothing_is_written_over(original: tuple[Path, nn.Module], tmp_path: Path) -> None:
    (tmp_path / "converted").mkdir()
    with pytest.raises(UserError, match="is there already"):
        convert(original[0], tmp_path / "converted")
