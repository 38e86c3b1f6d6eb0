"""The choice of experts by their condition numbers, beside peft's own and the definition."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import find_kappa_target_modules
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.kappa import Kappa, condition_numbers
from esft_bench.methods.moe.unread import Unread
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.tensor_files import tensor_files
from tests.methods.helpers import MOE

Models = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("architecture", MOE)
def test_condition_numbers_once_averaged_over_a_layer_rank_tensors_as_peft_does(
    tiny_model: Models, architecture: str
) -> None:
    model = tiny_model(architecture)
    layers = moe_layers(model).values()
    kinds = tuple({f".{name}" for layer in layers for name in layer.weights})
    theirs = find_kappa_target_modules(model, top_p=1.0, moe_param_suffixes=kinds, show_progress=False)
    ours = {
        f"{layer.name}.{name}": float(condition_numbers(layer.experts.get_parameter(name)).mean())
        for layer in layers
        for name in layer.weights
    }
    assert theirs["target_parameters"] == sorted(ours, key=lambda name: ours[name])


def test_the_best_conditioned_experts_are_chosen(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    (index, layer), *_ = moe_layers(model).items()
    with torch.no_grad():
        for name in layer.weights:
            weight = layer.experts.get_parameter(name)
            weight[5] = torch.eye(*weight.shape[1:])
    assert Kappa(count=2).chosen(model)[index][0] == 5


@pytest.mark.parametrize("architecture", MOE)
def test_experts_that_are_read_one_by_one_are_ranked_as_those_in_memory(
    tiny_model: Models, tmp_path: Path, architecture: str
) -> None:
    model = tiny_model(architecture)
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        shapes = tiny_model(architecture)
    unread = Unread(tensor_files(tmp_path))
    assert Kappa(count=3).chosen(shapes, unread) == Kappa(count=3).chosen(model)
    assert Kappa(count=5).chosen(shapes, Unread(unread.files, unread.known)) == Kappa(count=5).chosen(model)


def test_more_experts_than_a_layer_has_are_refused(tiny_model: Models) -> None:
    with pytest.raises(MethodError, match="are asked for"):
        Kappa(count=99).check_model(tiny_model("olmoe"))
