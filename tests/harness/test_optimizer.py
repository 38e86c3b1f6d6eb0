"""Optimizers that need less memory: they move what AdamW moves, go on after a stop, and take what is estimated."""

import pytest
import torch
from accelerate.state import AcceleratorState

from esft_bench.harness.plan.price.step import Batch, Execution, simulate
from esft_bench.harness.training.loop import Options, train
from esft_bench.harness.training.optimizer import held_in, make
from esft_bench.harness.training.precision import held, products
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.method import Context
from esft_bench.spec.errors import UserError
from esft_bench.spec.training import Training
from tests.conftest import build
from tests.harness.plans import prepared
from tests.harness.test_train import StoppedError, sequences
from tests.methods.helpers import TRAINING, profiled

pytest.importorskip("torchao", reason="skipped, no torchao: pip install 'esft-bench[optimizers]'")
STEPS = Training(steps=4, batch_size=4, sequence_length=12, learning_rate=1e-5)
BYTES = {"adamw": 16, "adamw-8bit": 10, "adamw-bf16-stochastic": 8}
SPARING = tuple(name for name in BYTES if name != "adamw")


@pytest.fixture(autouse=True)
def _no_precision_is_left():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.compiler.set_stance("default")


def named(name, **changes):
    return STEPS.model_copy(update={"optimizer": name, **changes})


def trained(name, method, scratch, precision="bf16", **options):
    """A tiny bfloat16 model trained by a method: its parameters as they are held, before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    scratch.mkdir(exist_ok=True)
    model = build("deepseek-v2").to(torch.bfloat16)
    parameters = list(method.prepare(model, Context(0, profiled(model))))
    with held(parameters, held_in(name)):
        before = [parameter.detach().clone() for parameter in parameters]
        train(model, parameters, sequences(), named(name), scratch, Options(products(precision), **options))
        return before, [parameter.detach().clone() for parameter in parameters]


def displacement(pair):
    return torch.cat([(after.double() - before.double()).reshape(-1) for before, after in zip(*pair, strict=True)])


def test_a_step_that_rounds_at_random_is_right_on_average_and_one_that_rounds_to_the_nearest_stands_still():
    """One step of AdamW is the learning rate, against the gradient's sign: 1/390 of what lies between two weights."""
    torch.manual_seed(0)
    rate = 1e-5
    weights = {name: torch.nn.Parameter(torch.ones(200_000, dtype=torch.bfloat16)) for name in ("random", "nearest")}
    settings = named("adamw-bf16-stochastic", weight_decay=0.0)
    steppers = [make(settings, [weights["random"]]), torch.optim.AdamW([weights["nearest"]], lr=rate, weight_decay=0)]
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    for stepper in steppers:
        stepper.step()
    below = 1.0 - 2.0**-8
    assert set(weights["random"].unique().tolist()) == {below, 1.0}
    share = rate / (1.0 - below)
    deviation = (1.0 - below) * (share * (1 - share) / 200_000) ** 0.5
    assert float(weights["random"].detach().double().mean()) == pytest.approx(1.0 - rate, abs=4 * deviation)
    assert set(weights["nearest"].unique().tolist()) == {1.0}


@pytest.mark.parametrize("method", ["fft", "attention-router", "lora-experts", "esft-token"])
def test_weights_move_on_average_as_far_as_in_float32(tmp_path, method):
    """Along float32's way d: what is rounded at random to weights s apart scatters about d by at most sqrt(d s)."""
    whole = displacement(trained("adamw", TRAINING[method], tmp_path / "whole"))
    for name in SPARING:
        before, after = trained(name, TRAINING[method], tmp_path / name)
        spacing = torch.cat([2.0 ** (each.double().abs().log2().floor() - 7).reshape(-1) for each in before])
        scatter = (whole**2 * whole.abs() * spacing).sum().sqrt() / (whole @ whole)
        far = displacement((before, after)) @ whole / (whole @ whole)
        assert scatter < 0.2
        assert float(far) == pytest.approx(1, abs=0.02 + 4 * float(scatter)), name


def test_eight_bits_for_the_moments_move_as_many_weights_as_float32(tmp_path):
    moved = {
        name: float((displacement(trained(name, TRAINING["fft"], tmp_path / name)) != 0).double().mean())
        for name in ("adamw", "adamw-8bit")
    }
    assert moved["adamw"] > 0.4
    assert moved["adamw-8bit"] == pytest.approx(moved["adamw"], abs=0.01)


@pytest.mark.parametrize("name", SPARING)
def test_a_run_that_was_stopped_ends_at_the_same_weights(tmp_path, name):
    def stop(step, steps):
        if step == 3:
            raise StoppedError

    method = TRAINING["esft-token"]
    torch.manual_seed(0)
    whole = trained(name, method, tmp_path / "whole", checkpoint_every=2)[1]
    torch.manual_seed(0)
    with pytest.raises(StoppedError):
        trained(name, method, tmp_path / "stopped", checkpoint_every=2, progress=stop)
    resumed = trained(name, method, tmp_path / "stopped", checkpoint_every=2)[1]
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.parametrize("name", BYTES)
def test_the_estimate_counts_the_bytes_that_a_step_for_real_keeps(name):
    shape = {"hidden_size": 256, "moe_intermediate_size": 256, "vocab_size": 512}
    config, training = build("deepseek-v2", **shape).config, named(name)
    one = simulate(config, FullFineTuning(), Context(0), Batch(1, 4), Execution("bf16", training))
    assert BYTES[name] * one.trainable_parameters <= one.peak_bytes <= 1.3 * BYTES[name] * one.trainable_parameters


def test_an_optimizer_that_is_not_installed_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("esft_bench.harness.plan.checks.version", lambda name: "")
    suite = "name: spare\ntasks: [mini-law]\nmethods: {fft: {}}\nevaluation: {engine: transformers}\n"
    with pytest.raises(UserError, match=r"training.optimizer adamw-8bit needs torchao.*pip install 'esft-bench\[opt"):
        prepared(tmp_path, suite + "training: {optimizer: adamw-8bit}\n")
    monkeypatch.undo()
    assert any(
        "by adamw-8bit" in note for note in prepared(tmp_path, suite + "training: {optimizer: adamw-8bit}\n").notes
    )
    with pytest.raises(UserError, match=r"adamw-bf16-stochastic rounds to bfloat16: set backbone\.precision to bf16"):
        prepared(tmp_path, suite + "training: {optimizer: adamw-bf16-stochastic}\n")
