"""Memory of a training step: gradients and optimizer state exist for what is trained, and for nothing else."""

import pytest

from benchmarks.memory import Memory, measure
from benchmarks.step_time import gradient_mask
from esft_bench.methods.method import Context
from esft_bench.methods.moe.profile import Profile
from tests.methods.helpers import TRAINING, profiled, tokens


def measured(model, prepare) -> Memory:
    seen: Profile = profiled(model)
    return measure(model.train(), lambda model: prepare(model, seen), tokens(rows=8))


def of(method):
    return lambda model, seen: TRAINING[method].prepare(model, Context(seed=0, profile=seen))


@pytest.mark.parametrize("method", ["fft", "lora", "esft-token", "esft-router", "esft-lora", "attention-router"])
def test_gradients_and_optimizer_state_take_what_the_trained_tensors_need(tiny_model, method):
    memory = measured(tiny_model("deepseek-v2"), of(method))
    assert memory.state_ratio == pytest.approx(1, abs=0.02)


def test_a_gradient_mask_takes_far_more_which_the_count_shows(tiny_model):
    masked = measured(tiny_model("deepseek-v2"), gradient_mask)
    selected = measured(tiny_model("deepseek-v2"), of("esft-token"))
    assert masked.states > 2 * selected.states


@pytest.mark.parametrize("method", ["fft", "lora", "esft-token"])
def test_the_peak_of_a_step_is_weights_states_and_activations(tiny_model, method):
    memory = measured(tiny_model("deepseek-v2", hidden_size=64, moe_intermediate_size=48), of(method))
    assert memory.peak_ratio < 1.1


def test_selected_experts_are_copied_once_and_nothing_else(tiny_model):
    memory = measured(tiny_model("deepseek-v2"), of("esft-token"))
    assert memory.trained <= memory.copies < 1.02 * memory.trained
