"""What every method owes on every architecture that it says it fits, with no list to edit.

Nothing moves but what was given to the optimizer; base plus adapter is the trained model; what is frozen stays as it is
to the byte; a training stopped and resumed ends where an undisturbed one does.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from esft_bench.harness.training.data import Sample
from esft_bench.harness.training.loop import CHECKPOINT, Options, train
from esft_bench.methods.moe.layout import CONFIG, read_config
from esft_bench.methods.overlay import overlaid
from esft_bench.spec.training import Training
from tests.conftest import build
from tests.methods.conftest import Outcomes
from tests.methods.helpers import (
    ADMITTED,
    TRAINING,
    load,
    logits,
    mixtures,
    pieces,
    seen_by,
    tensors,
    tensors_of_experts,
    tokens,
)

each_case = pytest.mark.parametrize(("architecture", "method"), ADMITTED)


def test_every_method_fits_an_architecture() -> None:
    assert {method for _, method in ADMITTED} == set(TRAINING)


@each_case
def test_a_prepared_model_is_still_the_base(outcomes: Outcomes, architecture: str, method: str) -> None:
    outcome = outcomes(architecture, method)
    torch.testing.assert_close(outcome.prepared_logits, outcome.base_logits)


@each_case
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


@each_case
def test_the_merged_checkpoint_is_the_trained_model(outcomes: Outcomes, architecture: str, method: str) -> None:
    outcome = outcomes(architecture, method)
    assert (outcome.logits - outcome.base_logits).abs().max() > 1e-3
    torch.testing.assert_close(logits(load(outcome.out)), outcome.logits, atol=5e-5, rtol=1e-5)


@each_case
def test_what_is_frozen_is_the_bases_to_the_byte(outcomes: Outcomes, architecture: str, method: str) -> None:
    outcome = outcomes(architecture, method)
    changed = {name.partition("[")[0] for name in outcome.changed()}
    assert changed
    assert changed <= outcome.reached()


@each_case
def test_what_is_swapped_in_is_what_the_merged_checkpoint_has(
    outcomes: Outcomes, architecture: str, method: str, tmp_path: Path
) -> None:
    outcome = outcomes(architecture, method)
    TRAINING[method].write_changed(outcome.base, outcome.adapter, tmp_path)
    changes, whole = overlaid(outcome.base, [tmp_path]), tensors(outcome.out)
    assert {name.partition("[")[0] for name in outcome.changed()} <= changes.names
    assert all(torch.equal(changes.read(name), tensor) for name, tensor in whole.items())


@each_case
def test_of_the_experts_those_that_the_adapter_names_are_changed(
    outcomes: Outcomes, architecture: str, method: str
) -> None:
    """Where an adapter says which experts it is of. Experts' biases, where there are any, are parts of them."""
    outcome = outcomes(architecture, method)
    if not (outcome.adapter / CONFIG).is_file():
        return
    every = tensors_of_experts(pieces(outcome.base), {layer: range(8) for layer in mixtures(load(outcome.base))})
    chosen = tensors_of_experts(every, read_config(outcome.adapter).experts)
    assert outcome.changed() & every == chosen
    assert chosen


SETTINGS = Training(steps=4, batch_size=2, sequence_length=12, learning_rate=1e-2)


class StoppedError(Exception):
    """Stands for a kill."""


def sequences() -> Iterator[Sample]:
    rows = tokens(rows=8, seed=5).tolist()
    while True:
        yield from (Sample(ids, ids) for ids in rows)


def stop(step: int, steps: int) -> None:
    if step == 3:
        raise StoppedError


@each_case
def test_a_run_stopped_and_resumed_ends_at_the_weights_of_an_undisturbed_one(
    tmp_path: Path, architecture: str, method: str
) -> None:
    def trained(scratch: str, progress=lambda step, steps: None) -> PreTrainedModel:
        model = build(architecture)
        parameters = TRAINING[method].prepare(model, seen_by(model, seed=0))
        (tmp_path / scratch).mkdir(exist_ok=True)
        options = Options(checkpoint_every=2, progress=progress)
        train(model, parameters, sequences(), SETTINGS, tmp_path / scratch, options)
        return model

    whole = trained("whole")
    with pytest.raises(StoppedError):
        trained("stopped", stop)
    assert (tmp_path / "stopped" / CHECKPOINT).exists()
    resumed = trained("stopped").state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed[name]), name
