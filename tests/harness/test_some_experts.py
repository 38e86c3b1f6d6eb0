"""The benchmark of training some experts: every way that trains them in full gives them the same gradients."""

import pytest
import torch

from benchmarks.some_experts import modules_to_save, target_parameters
from benchmarks.step_time import esft_token, gradient_mask
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.moe.view import moe_layers
from tests.methods.helpers import backward, profiled


@pytest.mark.parametrize("prepare", [gradient_mask, modules_to_save])
def test_masks_give_selected_experts_the_gradients_of_our_banks_and_others_none(tiny_model, prepare):
    ours, theirs = tiny_model("olmoe"), tiny_model("olmoe")
    seen = profiled(ours)
    esft_token(ours, seen)
    parameters = iter(prepare(theirs, seen))
    backward(ours)
    backward(theirs)
    for index, layer in moe_layers(ours).items():
        selected = EsftToken().select(seen)[index]
        others = [expert for expert in range(layer.num_experts) if expert not in selected]
        for name in ("selected_gate_up", "selected_down"):
            whole = next(parameters).grad
            torch.testing.assert_close(whole[selected], layer.experts.get_parameter(name).grad, atol=1e-5, rtol=1e-4)
            assert not whole[others].any()


def test_low_rank_updates_are_trained_of_all_experts_and_of_nothing_else(tiny_model):
    model = tiny_model("olmoe")
    parameters = target_parameters(model, profiled(model))
    layers = moe_layers(model)
    assert len(parameters) == 2 * 2 * len(layers)
    assert all(
        name.split(".lora_")[0].endswith("experts") or "base_layer" in name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )
