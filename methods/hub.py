"""A model's tensors as hub checkpoints have them: their names and shapes, where those differ from memory's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from esft_bench.methods.atomic import write_json, write_tensors
from esft_bench.methods.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
"""The file of an adapter's tensors."""
TIED = "tied_weights.json"
"""Beside changed tensors: names that stand for the same weights as another, {name: the one that was written}."""


def hub_tensors(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a model in memory as hub checkpoints have them: by other names, and experts one by one."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, tensors) if tensors else {}


def hub_name(model: PreTrainedModel, name: str) -> str:
    """The name in hub checkpoints of a tensor that they keep as one."""
    import torch

    (found,) = hub_tensors(model, {name: torch.empty(1, 1, device="meta")})
    return found


def without_weights(checkpoint: Path) -> PreTrainedModel:
    """The model of a checkpoint's configuration on the meta device: shapes and no weights.

    Raises MethodError where transformers has no such model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint))
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise MethodError(
            f"no model could be made of {checkpoint}/config.json: {str(error).splitlines()[0]}"
        ) from error
    return model


def check_not_tied(model: PreTrainedModel, modules: Iterable[str]) -> None:
    """Raise MethodError where one of the modules, by path or its end, shares its weights with another one."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    shared = {name.rpartition(".")[0] for pair in tied.items() for name in pair}
    for module in modules:
        if found := sorted(path for path in shared if path == module or path.endswith(f".{module}")):
            raise MethodError(
                f"`{found[0]}` shares its weights with another layer of {type(model).__name__}, so an update of it "
                "alone cannot be merged; leave it out of target_modules"
            )


def checkpoint_shapes(checkpoint: Path) -> dict[str, list[int]]:
    """Every tensor that a checkpoint of this configuration may have, by name, with its shape."""
    model = without_weights(checkpoint)
    return {name: list(tensor.shape) for name, tensor in hub_tensors(model, model.state_dict()).items()}


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters of a model with their names in it."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def write_trained(model: PreTrainedModel, folder: Path) -> None:
    """Write every trainable parameter of a model, and nothing else, as an adapter that `overlay` merges."""
    write_tensors(folder / WEIGHTS, hub_tensors(model, trained_tensors(model)))
    write_tied(model, folder)


def write_tied(model: PreTrainedModel, folder: Path) -> None:
    """Write, beside changed tensors, which names of the checkpoint stand for the same weights, if any do."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    if tied:
        names = {hub_name(model, alias): hub_name(model, name) for alias, name in tied.items()}
        write_json(folder / TIED, names)
