"""Trainings in which what is trained changes: resumed, chosen among and in chunks they stay the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from esft_bench.harness.training.data import IGNORED, Sample
from esft_bench.methods.esft import EsftGate
from esft_bench.methods.esft_dynamic import EsftDynamic
from esft_bench.methods.esft_gradual import EsftGradual
from esft_bench.methods.method import Method
from esft_bench.spec.errors import UserError
from esft_bench.spec.training import Training
from tests.conftest import build
from tests.harness.changes import CHANGING, NOISE, SETTINGS, experts, run
from tests.harness.ranks import StoppedError, sequences, stop
from tests.methods.helpers import seen_by

each_changing = pytest.mark.parametrize("method", CHANGING.values(), ids=CHANGING)


def assert_same(model: PreTrainedModel, other: PreTrainedModel, rtol: float = 0, atol: float = 0) -> None:
    assert experts(model) == experts(other)
    weights = other.state_dict()
    assert model.state_dict().keys() == weights.keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize(
    ("method", "plain"),
    [
        (EsftDynamic(every=6), EsftGate()),
        (EsftDynamic(every=6, p=0.3, non_expert_modules=True), EsftGate(p=0.3, non_expert_modules=True)),
        (EsftGradual(stages=1, every=1), EsftGate()),
        (EsftGradual(every=6), EsftGate(p=0.025)),
    ],
)
def test_where_nothing_changes_it_is_esft_to_the_bit(tmp_path: Path, method: Method, plain: Method) -> None:
    model, log = run(method, tmp_path / "changing")
    reference, expected = run(plain, tmp_path / "plain")
    assert min(log.gradient_norms) > SETTINGS.max_grad_norm
    assert log == expected
    assert_same(model, reference)


@each_changing
@pytest.mark.parametrize("architecture", ["olmoe", "gpt-oss", "deepseek-v2"])
def test_a_run_stopped_and_resumed_ends_at_the_weights_of_an_undisturbed_one(
    tmp_path: Path, method: Method, architecture: str
) -> None:
    whole, log = run(method, tmp_path / "whole", architecture=architecture)
    begun, _ = run(method, tmp_path / "begun", Training(**dict(SETTINGS) | {"steps": 1}), architecture)
    assert experts(whole) != experts(begun)
    with pytest.raises(StoppedError):
        run(method, tmp_path / "stopped", architecture=architecture, checkpoint_every=2, progress=stop)
    resumed, found = run(method, tmp_path / "stopped", architecture=architecture)
    assert found == log
    assert_same(resumed, whole)


@each_changing
def test_chunks_of_a_batch_are_no_part_of_what_is_computed(tmp_path: Path, method: Method) -> None:
    whole, _ = run(method, tmp_path / "whole")
    chunked, _ = run(method, tmp_path / "chunked", micro_batch=1)
    assert_same(chunked, whole, rtol=1e-4, atol=NOISE)


@each_changing
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, method: Method) -> None:
    """What is computed again in a backward pass is not counted again."""
    whole, _ = run(method, tmp_path / "whole")
    again, _ = run(method, tmp_path / "again", Training(**dict(SETTINGS) | {"gradient_checkpointing": True}))
    assert_same(again, whole, rtol=1e-4, atol=NOISE)


@each_changing
def test_the_weights_that_did_best_come_back_with_their_experts(tmp_path: Path, method: Method) -> None:
    scores = iter([1.0, 9.0, 3.0])
    settings = Training(**dict(SETTINGS) | {"evaluate_every": 2, "choose": "best"})
    model, log = run(method, tmp_path / "best", settings, score=lambda: next(scores))
    assert log.chosen == 4
    first, _ = run(method, tmp_path / "first", Training(**dict(SETTINGS) | {"steps": 4}))
    assert_same(model, first)


def test_training_stops_growing_by_the_loss_on_held_out_rows(tmp_path: Path) -> None:
    """Looked at on labels that no training makes likelier."""
    method = EsftGradual(p=0.8, every=2)
    against = [Sample(each.ids, [*each.labels[1:], IGNORED]) for each, _ in zip(sequences(), range(4), strict=False)]
    settings = Training(**dict(SETTINGS) | {"evaluate_every": 1, "learning_rate": 3e-2})
    looked, log = run(method, tmp_path / "looked", settings, held_out=against)
    unseen, _ = run(method, tmp_path / "unseen", settings)
    losses = [loss for _, loss in log.validation]
    falls = [losses[step - 1] < losses[step - 2] for step in (2, 4)]
    stages = 1 + (2 if all(falls) else falls[0])
    profile = seen_by(build("olmoe")).profile
    assert profile is not None
    for model, stage in ((looked, stages), (unseen, 3)):
        chosen = method.at_stage(stage).select(profile)
        assert [sorted(now) for now, _ in experts(model)] == [sorted(each) for each in chosen.values()]


def test_states_in_blocks_are_refused(tmp_path: Path) -> None:
    settings = Training(**dict(SETTINGS) | {"optimizer": "adamw-8bit"})
    with pytest.raises(UserError, match="adamw-8bit keeps states in blocks"):
        run(EsftDynamic(), tmp_path / "blocks", settings)


def test_states_in_bfloat16_follow(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    settings = Training(**dict(SETTINGS) | {"optimizer": "adamw-bf16-stochastic"})
    model, log = run(EsftDynamic(p=0.3, every=1, decay=0), tmp_path / "bf16", settings)
    assert len(log.losses) == settings.steps
    assert any(left for _, left in experts(model))
