"""What a method gives to the optimizer is what it trains, and nothing else moves."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from methods.method import Context, Method
from tests.methods.helpers import TRAINING, logits, profiled, train

Models = Callable[..., PreTrainedModel]
each_method = pytest.mark.parametrize("method", TRAINING.values(), ids=TRAINING)
ARCHITECTURES = ["deepseek-v2", "qwen2-moe"]


@each_method
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prepared_model_is_still_the_base(tiny_model: Models, architecture: str, method: Method) -> None:
    model = tiny_model(architecture)
    before, seen = logits(model), profiled(model)
    method.prepare(model, Context(seed=0, profile=seen))
    torch.testing.assert_close(logits(model), before)


@each_method
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_moves_all_that_was_given_to_the_optimizer_and_not_a_byte_more(
    tiny_model: Models, architecture: str, method: Method
) -> None:
    model = tiny_model(architecture)
    parameters = method.prepare(model, Context(seed=0, profile=profiled(model)))
    given = {id(parameter) for parameter in parameters}
    named = dict(model.named_parameters())
    assert {id(parameter) for parameter in named.values() if parameter.requires_grad} == given
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = train(model, parameters)
    assert {id(parameter) for parameter in optimizer.state} == given
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in named or id(named[name]) not in given), name
