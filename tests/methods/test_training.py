"""What a method gives to the optimizer is what it trains, and nothing else moves."""

import pytest
import torch

from tests.methods.conftest import Outcomes
from tests.methods.helpers import MOE, TRAINING

each_method = pytest.mark.parametrize("method", TRAINING)


@each_method
@pytest.mark.parametrize("architecture", MOE)
def test_a_prepared_model_is_still_the_base(outcomes: Outcomes, architecture: str, method: str) -> None:
    outcome = outcomes(architecture, method)
    torch.testing.assert_close(outcome.prepared_logits, outcome.base_logits)


@each_method
@pytest.mark.parametrize("architecture", MOE)
def test_training_moves_all_that_was_given_to_the_optimizer_and_not_a_byte_more(
    outcomes: Outcomes, architecture: str, method: str
) -> None:
    outcome = outcomes(architecture, method)
    given = {id(parameter) for parameter in outcome.parameters}
    named = dict(outcome.model.named_parameters())
    assert {id(parameter) for parameter in named.values() if parameter.requires_grad} == given
    assert {id(parameter) for parameter in outcome.optimizer.state} == given
    for name, tensor in outcome.model.state_dict().items():
        assert torch.equal(tensor, outcome.before[name]) == (name not in named or id(named[name]) not in given), name
