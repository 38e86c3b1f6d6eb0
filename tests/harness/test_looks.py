"""Looking at a model in the middle of its training: the training does not notice, and what is seen is what is there."""

import itertools
import json
import time

import pytest
import torch
from accelerate.state import AcceleratorState

from esft_bench.harness.backbone.model import load_tokenizer
from esft_bench.harness.backbone.prompts import Release
from esft_bench.harness.plan.benchmarks import benchmark_of
from esft_bench.harness.training.log import TrainingLog
from esft_bench.harness.training.loop import Options, train
from esft_bench.harness.training.precision import held
from esft_bench.harness.training.scoring import Scored, Scorer
from esft_bench.harness.training.tracked import Tracked
from esft_bench.methods.attention_router import AttentionRouter
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.method import Context
from esft_bench.methods.moe.profile import profile
from esft_bench.methods.moe.view import moe_layers
from esft_bench.spec.files import write_jsonl
from esft_bench.spec.training import Training
from esft_bench.tasks.mini import BACKBONE
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source
from tests.harness.test_train import StoppedError, sequences
from tests.methods.helpers import ADMITTED, TRAINING, seen_by, tokens

SETTINGS = Training(
    steps=6, batch_size=4, sequence_length=12, learning_rate=1e-2, evaluate_every=2, choose="best", profile_every=3
)


def stop(step, _steps):
    if step == 5:
        raise StoppedError


def scored(name, folder, count=4):
    """A task's first items, as a training is scored on them."""
    task = load_tasks()[name]
    path = folder / f"{name}.jsonl"
    write_jsonl(path, list(itertools.islice(task.items(Source()), count)))
    told = benchmark_of(task)
    return Scored(name=told.name, metric=told.metric, lm_eval=told.lm_eval, items=path)


def routing(model, layers=None):
    """Average routing scores of two data sets, [2, L, E]."""
    seen = [profile(model, [(ids, torch.ones_like(ids))], layers) for ids in (tokens(), tokens(seed=7))]
    return torch.stack([one.router_sums / one.tokens for one in seen])


def looked_at(model, scratch, settings=SETTINGS, method=None, **options):
    """Train a model that is measured as it goes on; its score falls, then rises."""
    layers = moe_layers(model)
    marks = itertools.count()
    parameters = (method or FullFineTuning()).prepare(model, seen_by(model))
    told = {
        "score": lambda: abs(next(marks) - 1.5) + torch.rand(1).item() / 9,
        "measure": lambda: routing(model, layers),
    }
    return train(model, parameters, sequences(), settings, scratch, Options(**(told | options)))


NOISE = {"mixtral": {"router_jitter_noise": 0.3, "attention_dropout": 0.3}, "deepseek-v2": {"attention_dropout": 0.5}}


@pytest.mark.parametrize("architecture", NOISE)
def test_a_training_that_is_looked_at_ends_at_the_weights_of_one_that_is_not(tiny_model, tmp_path, architecture):
    seen, unseen = (tiny_model(architecture, vocab_size=2048, **NOISE[architecture]) for _ in range(2))
    scorer = Scorer(seen, Release(load_tokenizer(BACKBONE)), [scored("mini-math", tmp_path)], 256)
    settings = SETTINGS.model_copy(update={"choose": "last"})
    for model, options in ((seen, {"score": scorer}), (unseen, {})):
        torch.manual_seed(3)
        if model is seen:
            log = looked_at(model, tmp_path / "seen", settings, **options)
        else:
            parameters = FullFineTuning().prepare(model, Context(seed=0))
            train(model, parameters, sequences(), settings, tmp_path / "unseen")
    assert [step for step, _ in log.scores] == [2, 4, 6]
    assert [step for step, _ in log.routing] == [0, 3, 6]
    assert all(torch.equal(weight, seen.state_dict()[name]) for name, weight in unseen.state_dict().items())


def test_what_was_seen_before_a_stop_is_known_after_it_and_the_best_weights_stay(tiny_model, tmp_path):
    values = {2: 3.0, 4: 8.0, 6: 8.0}

    def run(model, scratch, **options):
        steps = []

        def counted(step, _steps):
            steps.append(step)
            if options.get("stop") == step:
                raise StoppedError

        begun = options.get("begun", 0)
        score = lambda: values[(steps[-1] if steps else begun) + 1]  # noqa: E731
        return looked_at(model, scratch, score=score, checkpoint_every=3, progress=counted)

    whole, resumed = tiny_model("olmoe"), tiny_model("olmoe")
    log = run(whole, tmp_path / "whole")
    assert (log.scores, log.chosen) == ([(2, 3.0), (4, 8.0), (6, 8.0)], 4)
    with pytest.raises(StoppedError):
        run(tiny_model("olmoe"), tmp_path / "stopped", stop=5)
    again = run(resumed, tmp_path / "stopped", begun=3)
    assert (again.scores, again.chosen) == (log.scores, log.chosen)
    assert [step for step, _ in again.routing] == [0, 3, 6]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(log.routing, again.routing, strict=True))
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in whole.state_dict().items())


@pytest.mark.parametrize("name", [name for architecture, name in ADMITTED if architecture == "deepseek-v2"])
def test_the_routing_seen_at_the_last_step_is_that_of_the_checkpoint_that_comes_out(tiny_model, tmp_path, name):
    model, method = tiny_model("deepseek-v2"), TRAINING[name]
    base, merged = tmp_path / "base", tmp_path / "merged"
    adapter = tmp_path / "adapter"
    for folder in (base, merged, adapter):
        folder.mkdir()
    model.save_pretrained(base)
    before = routing(model)
    log = looked_at(model, tmp_path / "scratch", SETTINGS.model_copy(update={"choose": "last"}), method)
    method.export(model, adapter)
    method.merge(base, adapter, merged)
    after = routing(type(model).from_pretrained(merged))
    if getattr(method, "group_size", 1) == 1:
        torch.testing.assert_close(log.routing[0][1], before, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(log.routing[-1][1], after, atol=1e-6, rtol=1e-4)


@pytest.fixture
def _any_precision():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)  # one precision a process, outside of tests


@pytest.mark.usefixtures("_any_precision")
@pytest.mark.parametrize("mixed", ["no", "bf16"])
def test_half_precision_is_no_hindrance_to_a_look(tiny_model, tmp_path, mixed):
    model = tiny_model("deepseek-v2", vocab_size=2048).to(torch.bfloat16 if mixed == "bf16" else torch.float32)
    scorer = Scorer(model, Release(load_tokenizer(BACKBONE)), [scored("mini-math", tmp_path)], 256)
    layers = moe_layers(model)
    parameters = AttentionRouter().prepare(model, Context(seed=0))
    options = Options(mixed_precision=mixed, score=scorer, measure=lambda: routing(model, layers))
    with held(parameters):
        log = train(model, parameters, sequences(), SETTINGS, tmp_path / "scratch", options)
    assert len(log.scores) == 3
    sums = torch.stack([scores for _, scores in log.routing]).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-2, rtol=0)  # a softmax router's scores


def test_texts_choices_and_what_a_judge_would_read_are_scored_by_what_the_model_says(tiny_model, tmp_path):
    model = tiny_model("deepseek-v2", vocab_size=2048).eval()
    on = [scored(name, tmp_path) for name in ("mini-math", "mini-pronouns", "mini-law", "mini-code")]
    for each in on:
        assert 0.0 <= Scorer(model, Release(load_tokenizer(BACKBONE)), [each], 256)() <= 100.0


def test_what_was_tracked_is_read_back(tmp_path):
    points = [(0, torch.rand(2, 3, 4).double()), (5, torch.rand(2, 3, 4).double())]
    Tracked(points, 2).save(tmp_path)
    found = Tracked.load(tmp_path)
    assert found.top_k == 2
    assert [step for step, _ in found.points] == [0, 5]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(points, found.points, strict=True))
    (tmp_path / "empty").mkdir()
    Tracked([], 2).save(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())
    assert not Tracked.load(tmp_path / "empty").points


def test_a_log_is_told_without_its_routing():
    log = TrainingLog([1.0], [2.0], scores=[(1, 50.0)], routing=[(0, torch.ones(1))])
    assert log.told["scores"] == [(1, 50.0)]
    assert "routing" not in log.told
    json.dumps(log.told)


def slow():
    time.sleep(0.1)
    return 1.0


def test_looks_take_no_time_of_training(tiny_model, tmp_path):
    log = looked_at(tiny_model("olmoe"), tmp_path, score=slow)
    assert 0.3 < log.looks[0] < 30
    with pytest.raises(StoppedError):
        looked_at(tiny_model("olmoe"), tmp_path / "stopped", checkpoint_every=3, progress=stop)
    again = looked_at(tiny_model("olmoe"), tmp_path / "stopped", score=slow)
    assert again.looks[0] > 0.2  # those at steps 4 and 6, and what the ones before them took
