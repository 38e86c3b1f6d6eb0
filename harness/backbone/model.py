"""The backbone: where its checkpoint lies, what it is (a digest), and loading its model and tokenizer."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from esft_bench.harness.backbone.packing import packing
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Method
from esft_bench.methods.moe.observed import observed
from esft_bench.methods.moe.placement import check_divides
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.spec.errors import UserError


def load_config(folder: Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The checkpoint's configuration; a quantised one's is that of what it is unpacked to. Code of its own runs if
    trusted, and never asks.

    What it defines is then known to transformers by its names, so that whatever loads the checkpoint, or one merged
    from it, in this process finds it. Raises UserError where there is no such model, or its code is not trusted.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if trust_remote_code:
            _make_known(folder, config)
    except Exception as error:  # configurations raise what they like
        raise _no_model(folder, error) from error
    if packing(folder):
        del config.quantization_config
    return config


def _make_known(folder: Path, config: PreTrainedConfig) -> None:
    """Register the classes that a checkpoint's own code defines."""
    place = getattr(config, "auto_map", {}).get("AutoModelForCausalLM")
    if place is not None:
        AutoConfig.register(config.model_type, type(config), exist_ok=True)
        model = get_class_from_dynamic_module(place, folder)
        AutoModelForCausalLM.register(type(config), model, exist_ok=True)


def _no_model(folder: Path, error: Exception) -> UserError:
    """One sentence on why a checkpoint's configuration makes no model."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said or "custom code" in said:
        return UserError(
            f"backbone.path: {folder} needs code of its own to be loaded: set backbone.trust_remote_code to true if "
            "you trust it, or take another checkpoint."
        )
    if "Unrecognized configuration class" in said:
        said = "it has none for this model_type"
    return UserError(
        f"backbone.path: transformers makes no causal language model of {folder}/config.json ({said[:200]}): take a "
        "checkpoint of a text model that it knows."
    )


def empty_model(folder: Path, trust_remote_code: bool = False) -> PreTrainedModel:
    """The checkpoint's model with shapes and no weights (on the meta device). Raises UserError where it has none."""
    config = load_config(folder, trust_remote_code)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # so do models
        raise _no_model(folder, error) from error
    return model


def check_methods(
    folder: Path, methods: Mapping[str, Method], trust_remote_code: bool = False, shares: int | None = None
) -> None:
    """Refuse a backbone that a row's method cannot train, from its config alone: no weights are loaded.

    `shares`: the processes that are to hold a share of its experts each, for methods that allow it. Raises MethodError
    naming the row or that setting, and what was looked for.
    """
    model = empty_model(folder, trust_remote_code)
    for row, method in methods.items():
        try:
            method.check_model(model)
            if method.needs_profile or method.needs_general:
                with observed(model, moe_layers(model), {}):
                    pass
        except MethodError as error:
            raise MethodError(f"methods.{row}: {error}") from error
    if shares and any(method.expert_parallel for method in methods.values()):
        _check_shares(model, shares)


def _check_shares(model: PreTrainedModel, processes: int) -> None:
    try:
        layers = moe_layers(model).values()
    except MethodError as error:
        raise MethodError(
            f"training.expert_parallel: {type(model).__name__} has no routed experts that processes could share; leave "
            "it out"
        ) from error
    try:
        for layer in layers:
            check_divides(layer.num_experts, processes)
    except MethodError as error:
        raise MethodError(f"training.expert_parallel: {error}") from error


def experts_of(model: PreTrainedModel) -> dict[int, MoeLayer]:
    """The model's MoE layers, by number; none where it is dense, or its experts cannot be profiled."""
    with suppress(MethodError):
        layers = moe_layers(model)
        with observed(model, layers, {}):
            return layers
    return {}


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, as training and testing both use it.

    Raises UserError where there is none, where it has no end-of-sequence token, or a token for which the
    embeddings have no row.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raise what they like
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"No tokenizer can be made of tokenizer.json, tokenizer_config.json and what else {folder} holds "
            f"({type(error).__name__}: {said}): write or fetch the checkpoint again."
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer in {folder} has no end-of-sequence token: answers could not end.")
    rows = load_config(folder, trust_remote_code).get_text_config().vocab_size
    beyond = [token for token, number in tokenizer.get_added_vocab().items() if number >= rows]
    if beyond:
        raise UserError(
            f"The tokenizer in {folder} has the token '{beyond[0]}', for which the embeddings, of {rows} rows, have "
            "none: enlarge them, or take the token out."
        )
    return tokenizer  # type: ignore[no-any-return]


def load_model(
    folder: Path, precision: str = "float32", trust_remote_code: bool = False, device: str | None = None
) -> PreTrainedModel:
    """The checkpoint's model, in evaluation mode, on `device`: by default on the accelerator if there is one.

    On the device `meta` it has shapes and no weights, its buffers neither. Raises UserError where the checkpoint lacks
    some of its weights, or has them in other shapes.
    """
    load_config(folder, trust_remote_code)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are told of below, in a sentence
        device_map="meta" if device == "meta" else None,
    )
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(f"{folder} has no weights for `{missing[0]}`{more}: fetch or write the checkpoint again.")
    for name, kept, wanted in sorted(found["mismatched_keys"]):
        raise UserError(
            f"{folder} has `{name}` as {list(kept)}, which is to be {list(wanted)} by its configuration, as where some "
            "experts are missing: fetch or write the checkpoint again."
        )
    model.eval()
    if device == "meta":
        return model  # type: ignore[no-any-return]
    return model.to(device or default_device())  # type: ignore[no-any-return]


def load_shapes(folder: Path, precision: str = "float32", trust_remote_code: bool = False) -> PreTrainedModel:
    """The checkpoint's model on the device `meta`, in evaluation mode; buffers that no checkpoint has are real ones."""
    model = load_model(folder, precision, trust_remote_code, "meta")
    with init_empty_weights(include_buffers=False):
        made = AutoModelForCausalLM.from_config(model.config, trust_remote_code=trust_remote_code)
    kept = model.state_dict().keys()
    for name, buffer in list(model.named_buffers()):
        if name not in kept:
            module, _, key = name.rpartition(".")
            model.get_submodule(module)._buffers[key] = made.get_buffer(name).to(buffer.dtype)
    return model


def default_device() -> torch.device:
    """The accelerator, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
