"""Learning rates over steps: transformers' own values, also after a stop, and nothing new where none is asked for."""

import math

import pytest
import torch
from pydantic import ValidationError
from transformers import get_scheduler

from esft_bench.harness.training.loop import Options, train
from esft_bench.harness.training.optimizer import make
from esft_bench.harness.training.schedule import scheduled
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.method import Context
from esft_bench.spec.files import lines_in
from esft_bench.spec.training import Training
from tests.harness.plans import prepared
from tests.harness.test_train import SETTINGS, StoppedError, sequences

STEPS = 12
ROWS = """\
name: tiny
tasks: [mini-law, mini-intent]
methods:
  fft: {learning_rate: 1.0e-3, learning_rates: {mini-law: 3.0e-4}}
training: {epochs: 2, packing: false, batch_size: 100, sequence_length: 128, alignment_share: 0}
evaluation: {engine: transformers}
"""
THEIRS = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def stepper(rates=(1e-3, 1e-4)):
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in rates]
    groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, rates, strict=True)]
    return torch.optim.AdamW(groups)


def rates_of(scheduler, optimizer, count):
    """The rates of every group at so many steps in a row."""
    found = []
    for _ in range(count):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [0, 0.03, 0.3, 5])
@pytest.mark.parametrize("schedule", THEIRS)
def test_rates_are_those_of_transformers_schedulers(schedule, warmup):
    ours, theirs = stepper(), stepper()
    steps = math.ceil(warmup * STEPS) if warmup < 1 else warmup
    expected = rates_of(get_scheduler(THEIRS[schedule], theirs, steps, STEPS), theirs, STEPS)
    settings = Training(steps=STEPS, schedule=schedule, warmup_steps=warmup)
    assert rates_of(scheduled(ours, settings), ours, STEPS) == expected
    later = stepper()
    assert rates_of(scheduled(later, settings, done=4), later, STEPS - 4) == expected[4:]


def test_a_training_that_asks_for_no_schedule_is_told_as_before():
    told = Training(steps=3).model_dump(mode="json")
    assert not {"schedule", "warmup_steps"} & set(told)
    assert Training(steps=3, schedule="linear", warmup_steps=0.1).model_dump() == told | {
        "betas": (0.9, 0.95),
        "schedule": "linear",
        "warmup_steps": 0.1,
    }


def test_cells_have_the_rate_and_the_epochs_of_their_task(tmp_path):
    made = prepared(tmp_path, ROWS)
    found = {cell.task: path.training.training for cell, path in made.plan.paths.items() if cell.method == "fft"}
    rows = {task: lines_in(made.plan.data[task].training.path) for task in found}
    assert {task: told.learning_rate for task, told in found.items()} == {"mini-law": 3e-4, "mini-intent": 1e-3}
    assert {task: told.steps for task, told in found.items()} == {t: 2 * math.ceil(n / 100) for t, n in rows.items()}
    assert not any(told.epochs for told in found.values())


def test_a_warm_up_that_never_ends_is_refused():
    with pytest.raises(ValidationError, match="`warmup_steps` 20 leave none of 20 steps"):
        Training(steps=20, warmup_steps=20)


def trained(model, scratch, settings, **options):
    scratch.mkdir(exist_ok=True)
    parameters = FullFineTuning().prepare(model, Context(seed=0))
    train(model, parameters, sequences(), settings, scratch, Options(checkpoint_every=2, **options))
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_scheduled_training_that_was_stopped_ends_at_the_same_weights(tiny_model, tmp_path):
    def stop(step, steps):
        if step == 3:
            raise StoppedError

    settings = SETTINGS.model_copy(update={"schedule": "cosine", "warmup_steps": 0.4})
    whole = trained(tiny_model("olmoe"), tmp_path / "whole", settings)
    with pytest.raises(StoppedError):
        trained(tiny_model("olmoe"), tmp_path / "stopped", settings, progress=stop)
    resumed = trained(tiny_model("olmoe"), tmp_path / "stopped", settings)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    plain = trained(tiny_model("olmoe"), tmp_path / "plain", SETTINGS)
    assert not all(torch.equal(a, b) for a, b in zip(whole, plain, strict=True))


def test_a_first_step_of_no_rate_moves_nothing(tiny_model, tmp_path):
    """Warm-up begins at 0, as transformers' does."""
    model = tiny_model("olmoe")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    after = trained(model, tmp_path, SETTINGS.model_copy(update={"steps": 1, "warmup_steps": 0.5}))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_optimizers_that_keep_their_rate_in_a_tensor_follow_too():
    pytest.importorskip("torchao", reason="skipped, no torchao: pip install 'esft-bench[optimizers]'")
    settings = Training(steps=STEPS, schedule="linear", optimizer="adamw-bf16-stochastic", learning_rate=1e-3)
    optimizer = make(settings, [torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))])
    found = [rates[0] for rates in rates_of(scheduled(optimizer, settings), optimizer, 3)]
    assert found == pytest.approx([1e-3, 1e-3 * 11 / 12, 1e-3 * 10 / 12])
