"""The training loop: what it minimises, and that interruption and splitting change nothing."""

import itertools
import random

import pytest
import torch

from esft_bench.harness.training.data import IGNORED, Sample, stack
from esft_bench.harness.training.loop import CHECKPOINT, Options, train
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.methods.esft_router import EsftRouter
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.method import Context
from esft_bench.spec.errors import UserError
from esft_bench.spec.training import Training
from tests.methods.helpers import TRAINING, profiled

SETTINGS = Training(steps=6, batch_size=4, sequence_length=12, learning_rate=1e-3)


def sequences(seed=0, length=12):
    rng = random.Random(seed)
    while True:
        ids = [rng.randrange(3, 96) for _ in range(length)]
        yield Sample(ids, [token if rng.random() < 0.5 else IGNORED for token in ids])


def trained(model, scratch, **options):
    parameters = FullFineTuning().prepare(model, Context(seed=0))
    return train(model, parameters, sequences(), SETTINGS, scratch, Options(**options))


class StoppedError(Exception):
    pass


def test_training_lowers_the_loss_on_what_it_is_shown(tiny_model, tmp_path):
    model = tiny_model("olmoe")
    parameters = FullFineTuning().prepare(model, Context(seed=0))
    one = next(sequences())
    settings = SETTINGS.model_copy(update={"steps": 30, "learning_rate": 1e-2})
    log = train(model, parameters, itertools.repeat(one), settings, tmp_path)
    assert log.losses[-1] < 0.2 * log.losses[0]


def test_a_router_trained_gently_moves_by_its_share_of_the_step_and_the_experts_by_the_whole(tiny_model, tmp_path):
    def moved(factor):
        model = tiny_model("qwen2-moe")
        method = EsftRouter(router_lr_factor=factor)
        parameters = method.prepare(model, Context(seed=0, profile=profiled(model)))
        before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
        settings = SETTINGS.model_copy(update={"steps": 1})
        options = Options(learning_rate_factors=method.learning_rate_factors(model))
        train(model, parameters, sequences(), settings, tmp_path / str(factor), options)
        after = dict(model.named_parameters())
        return {name: after[name].detach() - weight for name, weight in before.items()}

    gentle, full = moved(0.1), moved(1.0)
    routers = [name for name in full if name.endswith(".gate.weight")]
    assert routers
    for name, change in full.items():
        torch.testing.assert_close(gentle[name], change * (0.1 if name in routers else 1.0), rtol=1e-3, atol=1e-8)


def test_small_chunks_reach_the_weights_of_whole_batches(tiny_model, tmp_path):
    whole, chunked = tiny_model("qwen3-moe"), tiny_model("qwen3-moe")
    one = trained(whole, tmp_path)
    two = trained(chunked, tmp_path, micro_batch=1)
    torch.testing.assert_close(torch.tensor(one.losses), torch.tensor(two.losses))
    for a, b in zip(whole.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["fft", "esft-token", "lora"])
def test_gradient_checkpointing_computes_layers_again_and_reaches_the_same_losses(tiny_model, tmp_path, method):
    def run(gradient_checkpointing):
        model = tiny_model("deepseek-v2")
        parameters = TRAINING[method].prepare(model, Context(seed=0, profile=profiled(model)))
        calls = []
        model.model.layers[1].mlp.experts.register_forward_pre_hook(lambda *_: calls.append(1))
        settings = SETTINGS.model_copy(update={"gradient_checkpointing": gradient_checkpointing})
        return train(model, parameters, sequences(), settings, tmp_path), len(calls)

    plain, once = run(False)
    saving, twice = run(True)
    assert twice == 2 * once
    assert saving.losses == pytest.approx(plain.losses, rel=1e-6)
    assert saving.gradient_norms == pytest.approx(plain.gradient_norms, rel=1e-5)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_run_stopped_anywhere_and_resumed_ends_at_the_same_weights_byte_for_byte(tiny_model, tmp_path, stop):
    undisturbed, resumed = tiny_model("deepseek-v2"), tiny_model("deepseek-v2")
    whole = trained(undisturbed, tmp_path)

    def stopping(step, steps):
        if step == stop:
            raise StoppedError

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(StoppedError):
        trained(tiny_model("deepseek-v2"), scratch, checkpoint_every=2, progress=stopping)
    assert (scratch / CHECKPOINT).exists() == (stop >= 2)
    log = trained(resumed, scratch, checkpoint_every=2)
    assert log.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True))


def test_gradients_are_clipped_to_the_norm_the_suite_asks_for(tiny_model, tmp_path):
    model = tiny_model("mixtral")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    parameters = FullFineTuning().prepare(model, Context(seed=0))
    settings = SETTINGS.model_copy(update={"steps": 1, "max_grad_norm": 1e-9, "weight_decay": 0.0})
    log = train(model, parameters, sequences(), settings, tmp_path)
    assert log.gradient_norms[0] > 1e-3  # the norm before clipping is what is logged
    # AdamW's first step is lr * g / (|g| + eps): gradients far below eps barely move anything.
    moved = max(float((a - b).detach().abs().max()) for a, b in zip(before, model.parameters(), strict=True))
    assert moved < 0.2 * SETTINGS.learning_rate


VALIDATED = SETTINGS.model_copy(update={"steps": 8, "evaluate_every": 2, "learning_rate": 1e-2})


def validated(model, scratch, settings=VALIDATED, **options):
    parameters = FullFineTuning().prepare(model, Context(seed=0))
    held_out = list(itertools.islice(sequences(seed=9), 11))
    few = itertools.cycle(list(itertools.islice(sequences(), 2)))  # soon learned by heart
    return train(model, parameters, few, settings, scratch, Options(held_out=held_out, **options))


def test_the_loss_on_held_out_rows_is_measured_every_few_steps_and_at_the_end_and_changes_nothing(tiny_model, tmp_path):
    seen, unseen = tiny_model("olmoe"), tiny_model("olmoe")
    settings = VALIDATED.model_copy(update={"evaluate_every": 3})
    log = validated(seen, tmp_path / "seen", settings)
    validated(unseen, tmp_path / "unseen", settings.model_copy(update={"evaluate_every": None}))
    assert [step for step, _ in log.validation] == [3, 6, 8]
    for name, weight in unseen.state_dict().items():
        assert torch.equal(weight, seen.state_dict()[name]), name
    rows = list(itertools.islice(sequences(seed=9), 11))
    losses = AnswerLoss(seen)(**stack(rows)).item() / sum(t != IGNORED for row in rows for t in row.labels[1:])
    assert log.validation[-1][1] == pytest.approx(losses, rel=1e-5)


def test_the_best_weights_are_those_of_the_step_with_the_lowest_loss_after_a_stop_too(tiny_model, tmp_path):
    best = VALIDATED.model_copy(update={"choose": "best"})
    chosen, at_step, resumed = tiny_model("olmoe"), tiny_model("olmoe"), tiny_model("olmoe")
    log = validated(chosen, tmp_path / "whole", best)
    losses = dict(log.validation)
    assert losses[log.chosen] == min(losses.values())
    assert log.chosen < 8, "what is learned by heart is no help with other rows"
    validated(at_step, tmp_path / "short", VALIDATED.model_copy(update={"steps": log.chosen}))

    def stop(step, steps):
        if step == 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        validated(tiny_model("olmoe"), tmp_path / "stopped", best, checkpoint_every=3, progress=stop)
    again = validated(resumed, tmp_path / "stopped", best, checkpoint_every=3)
    assert (again.validation, again.chosen) == (log.validation, log.chosen)
    for name, weight in at_step.state_dict().items():
        assert torch.equal(weight, chosen.state_dict()[name]), name
        assert torch.equal(weight, resumed.state_dict()[name]), name


NOISE = {"mixtral": {"router_jitter_noise": 0.3, "attention_dropout": 0.3}, "qwen2-moe": {"attention_dropout": 0.5}}


@pytest.mark.parametrize("architecture", NOISE)
def test_a_model_that_draws_noise_ends_at_the_same_weights_after_a_stop(tiny_model, tmp_path, architecture):
    def run(scratch, seed, **options):
        model = tiny_model(architecture, **NOISE[architecture])
        torch.manual_seed(seed)
        trained(model, scratch, **options)
        return model.state_dict()

    def stop(step, steps):
        if step == 5:
            raise StoppedError

    undisturbed, other = run(tmp_path / "whole", 1), run(tmp_path / "other", 2)
    assert any(not torch.equal(weight, other[name]) for name, weight in undisturbed.items()), "there is no noise"
    with pytest.raises(StoppedError):
        run(tmp_path, 1, checkpoint_every=2, progress=stop)
    resumed = run(tmp_path, 3)  # where the generators stand at the start is no matter: the checkpoint says where
    assert all(torch.equal(weight, resumed[name]) for name, weight in undisturbed.items())


@pytest.mark.parametrize("architecture", ["deepseek-v2", "gpt-oss"])
def test_a_training_that_diverges_is_ended_with_row_step_and_rate_and_leaves_no_checkpoint(
    tiny_model, tmp_path, architecture
):
    settings = SETTINGS.model_copy(update={"learning_rate": 1e20, "evaluate_every": 1, "choose": "best", "steps": 20})
    held_out = list(itertools.islice(sequences(seed=9), 2))
    told = []
    for _ in range(2):
        model = tiny_model(architecture)
        parameters = FullFineTuning().prepare(model, Context(seed=0))
        options = Options(name="full", checkpoint_every=1, held_out=held_out)
        with pytest.raises(UserError, match=r"^full: .* in step \d+ at learning rate 1e\+20; ") as raised:
            train(model, parameters, sequences(), settings, tmp_path, options)
        told.append(str(raised.value))
        assert not list(tmp_path.rglob("*.safetensors"))
    assert told[0] == told[1]


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "the loss is nan"), (1e30, "the gradient norm is")])
def test_what_is_no_number_is_named_in_the_first_step_that_meets_it(tiny_model, tmp_path, value, what):
    model = tiny_model("olmoe")
    parameters = FullFineTuning().prepare(model, Context(seed=0))
    with torch.no_grad():
        model.lm_head.weight.mul_(value)
    with pytest.raises(UserError, match=f"^training diverged: {what}.* in step 1 at"):
        train(model, parameters, sequences(), SETTINGS, tmp_path)
