"""The choice of experts by their condition numbers, beside peft's own and the definition."""

from collections.abc import Callable

import pytest
import torch
from peft.helpers import KappaTuneSelector
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.kappa import Kappa, condition_numbers
from esft_bench.methods.moe.view import moe_layers
from tests.methods.helpers import MOE

Models = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("architecture", MOE)
def test_condition_numbers_are_pefts_once_averaged_over_a_layer(tiny_model: Models, architecture: str) -> None:
    model = tiny_model(architecture)
    kinds = tuple({f".{name}" for layer in moe_layers(model).values() for name in layer.weights})
    selector = KappaTuneSelector(model, moe_param_suffixes=kinds, show_progress=False)
    selector.get_best_target_parameters()
    theirs = selector._parameter_condition_numbers
    assert theirs
    for layer in moe_layers(model).values():
        expected = [theirs[f"{layer.name}.{name}"] for name in layer.weights]
        assert float(condition_numbers(layer).mean()) == pytest.approx(sum(expected) / len(expected), rel=1e-3)


def test_the_best_conditioned_experts_are_chosen(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    (index, layer), *_ = moe_layers(model).items()
    with torch.no_grad():
        for name in layer.weights:
            weight = layer.experts.get_parameter(name)
            weight[5] = torch.eye(*weight.shape[1:])
    assert Kappa(count=2).chosen(model)[index][0] == 5


def test_more_experts_than_a_layer_has_are_refused(tiny_model: Models) -> None:
    with pytest.raises(MethodError, match="are asked for"):
        Kappa(count=99).check_model(tiny_model("olmoe"))
