"""Which mixture-of-experts architectures of the installed transformers can be trained, and what is refused.

    python benchmarks/architectures.py > docs/architectures.md

Every causal language model of transformers that has experts is built at random and tiny, saved as a hub checkpoint,
loaded, profiled, trained with ESFT-Token for a step, exported, merged and loaded again. It counts as trained where the
prepared model's logits are the base's, the merged one's the trained one's (float32, 1e-4), base and merged checkpoint
differ in tensors of experts alone, and the scaling factor that is divided out of gates is the one in them. The loss is
what training minimises, some positions of some rows left out, beside `model(input_ids, labels=…).loss`: equal where the
values and all gradients are, to 1e-5 of the largest in each tensor; logits are scaled and capped where a model can.

Checkpoints in FP8 by blocks (DeepSeek-V3) and in MXFP4 (gpt-oss) are first
[unpacked to bfloat16](planning.md#a-quantised-backbone); other quantisations (AWQ, GPTQ, bitsandbytes) are refused.
"""

import contextlib
import inspect
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from esft_bench.harness.training.data import IGNORED
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.method import Context
from esft_bench.methods.moe.export import form
from esft_bench.methods.moe.profile import profile
from esft_bench.methods.moe.view import SCALING, MoeLayer, moe_layers

SMALL: dict[str, Any] = {
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_group", "topk_group"), 2),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("head_dim", "kv_lora_rank", "q_lora_rank", "qk_head_dim", "global_head_dim"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "sliding_window"), 8),
    **dict.fromkeys(("num_hidden_layers", "num_layers"), 3),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size"), 48),
    "hidden_size": 32,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "num_nextn_predict_layers": 0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "logits_scaling": 4.0,
    "logit_scale": 0.25,
    "final_logit_softcapping": 3.0,
}
"""Settings that make a configuration small, by the names that configurations share; each takes those it knows."""
MIXED = ["linear_attention", "full_attention", "full_attention"]
SPECIAL: dict[str, dict[str, Any]] = {
    "longcat_flash": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 0},
    "kimi_linear": {"layer_types": MIXED},
    "mimo_v2_flash": {"layer_types": ["full_attention"] * 3},
    "qwen3_5_moe_text": {"layer_types": MIXED},
    "qwen3_next": {"layer_types": MIXED},
    "qwen4_exp_text": {"layer_types": MIXED},
    "gemma4_text": {"enable_moe_block": True, "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["attention"] * 3},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What single configurations need besides to be valid when small."""


FACTORS = (*SCALING, "moe_routed_scaling_factor", "moe_router_scaling_factor")
"""Names that configurations have for the factor of the gates or of the experts' output."""


EQUAL = "equal"


@dataclass(frozen=True)
class Row:
    """What is found out about an architecture; `state`: trained | refused | not built | differs.

    `loss`: equal, or by how much what is minimised differs from the model's own.
    """

    name: str
    state: str
    note: str
    layer: MoeLayer | None = None
    stored: str = ""
    loss: str = ""


def names() -> Iterator[str]:
    """All causal language models with experts, by name."""
    for name, classes in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()):
        model_class = getattr(transformers, classes if isinstance(classes, str) else classes[0])
        composite = "text_config" in CONFIG_MAPPING[name].sub_configs  # its text model has a name of its own
        source = inspect.getsource(sys.modules[model_class.__module__])
        if not composite and re.search(r"class \w*(Expert|MoE|Moe)\w*\(", source):
            yield name


def examine(name: str) -> Row:
    """Build an architecture and train it."""
    try:
        model = build(name)
    except Exception as error:  # another library's configurations may object to being small in any way
        return Row(name, "not built", f"{type(error).__name__}: {_sentence(error)}")
    loss = compared_loss(model)
    try:
        layers = moe_layers(model)
        row = replace(_trained(name, model, next(iter(layers.values()))), loss=loss)
        return row if loss == EQUAL else replace(row, state="differs", note="trains on another loss")
    except MethodError as error:
        return Row(name, "refused", _sentence(error), loss=loss)
    except Exception as error:
        return Row(name, "differs", f"{type(error).__name__}: {_sentence(error)}", loss=loss)


def compared_loss(model: PreTrainedModel) -> str:
    """Whether loss and gradients of training are the model's own: `equal`, or the largest difference.

    Positions that count differ from row to row, and a row has none.
    """
    ids = torch.randint(3, 96, (4, 24), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    for row, asked in enumerate((4, 15, 9, 24)):
        labels[row, :asked] = IGNORED
    counted = int((labels[:, 1:] != IGNORED).sum())
    ours, gradients = _with_gradients(model, AnswerLoss(model)(ids, labels) / counted)
    theirs, expected = _with_gradients(model, model(input_ids=ids, labels=labels, use_cache=False).loss)
    if gradients.keys() != expected.keys():
        return "other parameters"
    apart = [abs(ours - theirs) / theirs]
    apart += [
        float((gradients[key] - value).abs().max() / value.abs().max().clamp(1e-8)) for key, value in expected.items()
    ]
    return EQUAL if max(apart) < 1e-5 else f"{max(apart):.0e}"


def _with_gradients(model: PreTrainedModel, loss: Tensor) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return float(loss), found


def build(name: str, **changes: Any) -> PreTrainedModel:
    """A random, small model of an architecture."""
    settings = configuration(name, **changes)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(settings).num_parameters()
    if size > 5e6:
        raise ValueError(f"{size:,} parameters: the configuration has sizes of other names")
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(settings)
    return model.eval()


def configuration(name: str, **changes: Any) -> PreTrainedConfig:
    """A small configuration of an architecture; `changes` that it does not know are left out."""
    kind: type[PreTrainedConfig] = CONFIG_MAPPING[name]
    known = {key for base in kind.__mro__ for key in getattr(base, "__annotations__", {})}
    known |= set(inspect.signature(kind.__init__).parameters)
    settings = SMALL | changes | SPECIAL.get(name, {})
    return kind(**{key: value for key, value in settings.items() if key in known})


def _trained(name: str, model: PreTrainedModel, layer: MoeLayer) -> Row:
    stored = form(model, layer, layer.weights[0])
    method, ids = EsftToken(), torch.randint(3, 96, (4, 12), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as scratch:
        base, adapter, out = (Path(scratch) / folder for folder in ("base", "adapter", "out"))
        for folder in (base, adapter, out):
            folder.mkdir()
        model.save_pretrained(base)
        model = _load(base)
        before = _logits(model, ids)
        parameters = method.prepare(model, Context(seed=0, profile=profile(model, [(ids, torch.ones_like(ids))])))
        torch.testing.assert_close(_logits(model, ids), before, atol=1e-4, rtol=1e-4)
        model(input_ids=ids, labels=ids).loss.backward()
        torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1).step()
        after = _logits(model, ids)
        if torch.equal(after, before):
            return Row(name, "differs", "training changes nothing", layer, stored)
        method.export(model, adapter)
        method.merge(base, adapter, out)
        torch.testing.assert_close(_logits(_load(out), ids), after, atol=1e-4, rtol=1e-4)
        old, new = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
        changed = [key for key in old if not torch.equal(old[key], new[key])]
        if wrong := [key for key in changed if "expert" not in key and "_linear" not in key]:
            return Row(name, "differs", f"{wrong[0]} was changed", layer, stored)
    factor = factor_in_weights(name)
    if factor is not None and abs(factor / scaling_seen(name) - 1) > 1e-3:
        return Row(name, "differs", f"gates are scaled by {factor}", layer, stored)
    return Row(name, "trained", "", layer, stored)


def _load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return model


def _logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(input_ids=ids, use_cache=False).logits
    return logits


def factor_in_weights(name: str) -> float | None:
    """How much larger an architecture's gate weights get where the configuration's scaling factor is 4 and not 1.

    None where its configuration has no such factor, or not under a name known here.
    """
    if not any(hasattr(configuration(name), key) for key in FACTORS):
        return None
    seen = []
    for factor in (1.0, 4.0):
        model = build(name, **dict.fromkeys(FACTORS, factor))
        layer = next(iter(moe_layers(model).values()))
        hook = layer.experts.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append([*args, *kwargs.values()][2].sum()), with_kwargs=True
        )
        _logits(model, torch.arange(3, 33).view(2, 15))
        hook.remove()
    return float(seen[1] / seen[0])


def scaling_seen(name: str) -> float:
    """The factor that the view sees in an architecture's gates where the configuration's is 4."""
    return next(iter(moe_layers(build(name, **dict.fromkeys(FACTORS, 4.0))).values())).scaling


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:200].replace("|", "/")


def _line(row: Row) -> str:
    layer = row.layer
    if layer is None:
        return f"| {row.name} | {row.state} | {row.loss} | | | | | {row.note} |"
    words = [] if layer.experts.has_gate else ["no gate"]
    words += ["biases"] if layer.experts.has_bias else []
    words += ["transposed"] if layer.experts.is_transposed else []
    cells = (
        ", ".join(words) or "gated",
        {"single": "one by one", "fused": "fused", "converted": "fused, converted"}[row.stored],
        f"`{(layer.router or '?').rpartition('.')[2]}`",
        ", ".join(f"`{path.rpartition('.')[2]}`" for path, _ in layer.shared) or "none",
    )
    return f"| {row.name} | {row.state} | {row.loss} | {' | '.join(cells)} | {row.note} |"


def main() -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):
        rows = [examine(name) for name in names()]
    equal = sum(row.loss == EQUAL for row in rows)
    counts = {
        state: sum(row.state == state for row in rows) for state in ("trained", "refused", "not built", "differs")
    }
    print("# Architectures")
    print()
    print(f"Made by `python benchmarks/architectures.py` with transformers {transformers.__version__}; do not edit.")
    print()
    print(inspect.cleandoc(__doc__).partition("\n\n")[2].partition("\n\n")[2])
    print()
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count) + f"; loss {EQUAL} in {equal}.")
    print()
    print("| architecture | ESFT | loss | experts | in checkpoints | router | shared experts | note |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(_line(row))
    sys.exit(counts["differs"] > 0)


if __name__ == "__main__":
    main()
