"""What training minimises is the model's own loss, on the tokens that count, whatever the model does to its logits."""

import pytest
import torch
from torch import nn

from benchmarks import architectures
from esft_bench.harness.training.data import IGNORED
from esft_bench.harness.training.loss import AnswerLoss, auxiliary_loss_sentence
from tests.conftest import ARCHITECTURES, build

OF_THE_LOGITS = {
    "granitemoe": {"logits_scaling": 8.0},
    "granitemoeshared": {"logits_scaling": 8.0},
    "granitemoehybrid": {"logits_scaling": 8.0},
    "cohere2_moe": {"logit_scale": 0.1},
    "gemma4_text": {"final_logit_softcapping": 2.0},
}
"""What configurations do to logits before the softmax."""


def batch(vocabulary=96):
    """Ids and labels (B, T) of which other positions count in each row, and none in the last."""
    ids = torch.randint(3, vocabulary, (3, 16), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    for row, asked in enumerate((3, 11, 16)):
        labels[row, :asked] = IGNORED
    return ids, labels


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def check_equals_the_models_own(model):
    ids, labels = batch()
    ours = AnswerLoss(model)(ids, labels) / (labels[:, 1:] != IGNORED).sum()
    found = gradients(model, ours)
    theirs = model(input_ids=ids, labels=labels, use_cache=False).loss
    expected = gradients(model, theirs)
    torch.testing.assert_close(ours, theirs)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "dense"])
def test_loss_and_gradients_are_the_models_own(architecture):
    check_equals_the_models_own(build(architecture))


@pytest.mark.parametrize("architecture", OF_THE_LOGITS)
def test_scaled_and_capped_logits_are_what_is_trained_on(architecture):
    model = architectures.build(architecture, **OF_THE_LOGITS[architecture])
    check_equals_the_models_own(model)
    plain = architectures.build(
        architecture, **{key: 1e4 if "cap" in key else 1.0 for key in OF_THE_LOGITS[architecture]}
    )
    assert not torch.isclose(AnswerLoss(model)(*batch()), AnswerLoss(plain)(*batch()), rtol=0.01)


def test_the_head_runs_on_the_positions_that_count_and_on_all_again_afterwards(tiny_model):
    model, seen = tiny_model("qwen3-moe"), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:-1]))
    ids, labels = batch()
    AnswerLoss(model)(ids, labels)
    model(input_ids=ids)
    assert seen == [(1, (labels[:, 1:] != IGNORED).sum()), ids.shape]


def test_a_head_that_is_no_module_of_its_own_gives_the_same_loss(tiny_model, monkeypatch):
    model = tiny_model("olmoe")
    expected = AnswerLoss(model)(*batch())
    for uncalled in (nn.Linear(32, 96), None):
        monkeypatch.setattr(model, "get_output_embeddings", lambda uncalled=uncalled: uncalled)
        torch.testing.assert_close(AnswerLoss(model)(*batch()), expected)


def test_a_batch_on_which_nothing_counts_weighs_nothing(tiny_model):
    model = tiny_model("deepseek-v2")
    ids, labels = batch()
    loss = AnswerLoss(model)(ids, torch.full_like(labels, IGNORED))
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients(model, loss).values())


def test_no_auxiliary_loss_is_added_though_the_configuration_asks_for_one_and_the_report_can_say_so(tiny_model):
    plain = tiny_model("mixtral")
    asking = tiny_model("mixtral", output_router_logits=True, router_aux_loss_coef=0.5)
    assert torch.equal(AnswerLoss(plain)(*batch()), AnswerLoss(asking)(*batch()))
    assert auxiliary_loss_sentence(asking.config) == (
        "No auxiliary loss was added (the config's router_aux_loss_coef is 0.5)."
    )
    assert auxiliary_loss_sentence(tiny_model("dense").config) == "No auxiliary loss was added."
