"""The numbers of one tiny cell, so that a change of what training computes is seen, and has to be meant.

Rounding does not reach them: with every weight off by a random 1e-6 of itself the experts are the same, and the losses
to 1e-5.
"""

import random
from collections.abc import Iterator

import pytest
import torch

from esft_bench.harness.training.data import IGNORED, Sample
from esft_bench.harness.training.loop import train
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.method import Context
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.spec.training import Training

LENGTH = 24
SETTINGS = Training(steps=3, batch_size=2, sequence_length=LENGTH, learning_rate=1e-2)
LOSSES = [5.13849, 5.22652, 5.01796]
BY_TOKENS = {1: [3, 0, 5], 2: [2, 0, 4]}
BY_GATES = {1: [3, 0, 5, 7], 2: [2, 0, 5, 4]}


def sequences() -> Iterator[Sample]:
    """Random tokens, of which the second half of each sequence is to be learned."""
    rng = random.Random(0)
    while True:
        ids = [rng.randrange(3, 96) for _ in range(LENGTH)]
        yield Sample(ids, [IGNORED] * (LENGTH // 2) + ids[LENGTH // 2 :])


def profiled(model) -> Profile:
    ids = torch.tensor([sample.ids for sample, _ in zip(sequences(), range(16), strict=False)])
    return profile(model, [(ids, torch.ones_like(ids))])


@pytest.mark.parametrize(("method", "selected"), [(EsftToken(p=0.4), BY_TOKENS), (EsftGate(p=0.4), BY_GATES)])
def test_the_experts_that_are_selected_are_the_ones_they_were(tiny_model, method, selected):
    chosen = method.select(profiled(tiny_model("deepseek-v2")))
    assert {layer: list(experts) for layer, experts in chosen.items()} == selected


def test_the_losses_of_a_training_are_what_they_were(tiny_model, tmp_path):
    model = tiny_model("deepseek-v2")
    parameters = EsftToken(p=0.4).prepare(model, Context(seed=0, profile=profiled(model)))
    log = train(model, parameters, sequences(), SETTINGS, tmp_path)
    assert log.losses == pytest.approx(LOSSES, abs=1e-4)
