"""The estimate of a training step against the same step carried out for real."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from esft_bench.harness.commands.options import SuiteOptions
from esft_bench.harness.commands.prepare import prepare
from esft_bench.harness.plan.price.alive import watched
from esft_bench.harness.plan.price.estimate import evaluation_prices, training_prices
from esft_bench.harness.plan.price.hardware import MARGIN, Accelerator, accelerator
from esft_bench.harness.plan.price.sharded import sharings
from esft_bench.harness.plan.price.step import Batch, Execution, simulate
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.methods.densemixer import DenseMixer
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.training import Training
from esft_bench.tasks.mini import BACKBONE
from tests.conftest import build
from tests.harness import plans as harness_plans

ROWS, LENGTH = 8, 64
WIDE = {"hidden_size": 128, "moe_intermediate_size": 64, "vocab_size": 512}


def seen_by(architecture: str) -> Profile:
    ids = torch.randint(3, 512, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    return profile(build(architecture, **WIDE), [(ids, torch.ones_like(ids))])


def really(architecture: str, method: Method, seen: Profile) -> tuple[int, int]:
    """Two real steps on half-supervised rows: the most bytes alive at a time, and the parameters trained."""
    ids = torch.randint(3, 512, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    labels = ids.masked_fill(torch.arange(LENGTH) < LENGTH // 2, -100)
    with watched() as alive:
        model = build(architecture, **WIDE)
        parameters = method.prepare(model, Context(seed=0, profile=seen))
        loss_module, optimizer = AnswerLoss(model.train()), torch.optim.AdamW(parameters, fused=True)
        for _ in range(2):
            loss_module(ids, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return alive.peak, sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize(
    ("architecture", "method"),
    [
        ("deepseek-v2", FullFineTuning()),
        ("deepseek-v2", Lora(rank=4)),
        ("deepseek-v2", EsftToken(p=0.5)),
        ("qwen3-moe", EsftToken(p=0.5)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_estimated_memory_of_a_step_is_within_15_per_cent_of_a_real_one(architecture: str, method: Method) -> None:
    seen = seen_by(architecture)
    peak, trained = really(architecture, method, seen)
    config = build(architecture, **WIDE).config
    estimate = simulate(config, method, Context(seed=0, profile=seen), Batch(ROWS, LENGTH), Execution(attention="sdpa"))
    assert estimate.trainable_parameters == trained
    assert estimate.peak_bytes == pytest.approx(peak, rel=0.15)


def test_checkpointing_gradients_lowers_the_estimate_of_memory_and_raises_that_of_operations() -> None:
    config = build("deepseek-v2", **WIDE, num_hidden_layers=4).config
    plain, saving = (
        simulate(
            config,
            FullFineTuning(),
            Context(seed=0),
            Batch(16, LENGTH),
            Execution(training=Training(gradient_checkpointing=on)),
        )
        for on in (False, True)
    )
    assert saving.peak_bytes < 0.9 * plain.peak_bytes
    assert saving.operations > 1.2 * plain.operations


def test_a_plan_prices_training_and_testing_for_each_row_and_benchmark(tmp_path: Path) -> None:
    prepared = prepare(SuiteOptions("mini", quick=True, run_dir=tmp_path, engine="transformers"))
    graph, device = prepared.plan.graph(prepared.store), accelerator("A100-80GB")
    rows = {price.row: price for price in training_prices(prepared.plan, graph, device, micro_batch=2)}
    assert rows["FFT"].peak_bytes > rows["ESFT-Token"].peak_bytes
    assert rows["FFT"].operations > rows["ESFT-Token"].operations
    assert rows["FFT"].adapter_bytes == pytest.approx(16_296_960, rel=0.01)  # the backbone in float32
    tested = {price.benchmark: price for price in evaluation_prices(prepared.plan)}
    assert tested["Intent"].generated == 50 * 40
    assert tested["Pronouns"].generated == 0


def test_a_row_too_large_for_one_device_is_told_how_many_hold_it_and_what_each_holds(tmp_path: Path) -> None:
    prepared = prepare(SuiteOptions("mini", quick=True, run_dir=tmp_path, engine="transformers"))
    plan, graph = prepared.plan, prepared.plan.graph(prepared.store)
    prices = training_prices(plan, graph, accelerator("A100-80GB"), micro_batch=1)
    peaks = {price.row: price.peak_bytes for price in prices}
    small = Accelerator("small", 0.6 * peaks["FFT"] / MARGIN, 1e12, 1e12)
    (fft,) = [each for each in sharings(plan, graph, small, prices, 1) if each.row == "FFT"]
    assert 2 <= fft.devices <= 8
    assert fft.bytes_each <= 0.6 * peaks["FFT"]
    (seconds,) = [price.seconds for price in prices if price.row == "FFT"]
    assert fft.seconds >= seconds / fft.devices
    tiny = Accelerator("tiny", 1e5, 1e12, 1e12)
    assert {each.devices for each in sharings(plan, graph, tiny, prices, 1)} == {0}
    assert not sharings(plan, graph, accelerator("A100-80GB"), prices, 1)


@pytest.mark.parametrize("method", [FullFineTuning(), Lora(rank=4), EsftToken(p=0.5)])
def test_gradients_that_go_as_they_come_leave_the_rest_of_a_step_as_it_is(method: Method) -> None:
    config = build("deepseek-v2", **WIDE).config
    context = Context(seed=0, profile=seen_by("deepseek-v2"))
    kept, gone = (
        simulate(config, method, context, Batch(ROWS, LENGTH), Execution(shared=shared)) for shared in (False, True)
    )
    assert 0 <= kept.peak_bytes - gone.peak_bytes <= kept.trainable_bytes
    assert (gone.held_bytes, gone.operations) == (kept.held_bytes, kept.operations)
    assert gone.held_bytes == pytest.approx(gone.weight_bytes + 2 * gone.trainable_bytes, rel=0.01)
    assert gone.other_bytes < gone.weight_bytes
    assert gone.other_bytes + config.num_hidden_layers * gone.layer_bytes >= 0.99 * gone.weight_bytes


def test_a_method_that_changes_the_configuration_changes_no_later_estimate() -> None:
    config = build("deepseek-v2", **WIDE).config
    seen = seen_by("deepseek-v2")
    plain, grouped, again = (
        simulate(config, method, Context(seed=0, profile=seen, general=seen), Batch(ROWS, LENGTH))
        for method in (FullFineTuning(), FullFineTuning(group_size=2), FullFineTuning())
    )
    assert grouped.operations > plain.operations  # top 3 of 8 becomes 2 groups of 2
    assert again == plain


LOOKS = """\
name: looked
tasks: [mini-law]
general: [mini-facts]
alignment: mini-alignment
methods:
  plain: {method: fft}
  tracked: {method: fft, profile_every: 10}
training: {steps: 30, batch_size: 2, sequence_length: 128, validation_items: 20}
profiling: {sequences: 4, sequence_length: 64}
evaluation: {engine: transformers}
"""


def test_looks_at_a_training_are_priced_by_the_tokens_that_pass_and_the_steps_of_decoding(tmp_path: Path) -> None:
    def priced(changes: str) -> dict[str, float]:
        made = harness_plans.prepared(tmp_path, LOOKS.replace("items: 20", f"items: 20{changes}"))
        prices = training_prices(made.plan, made.plan.graph(made.store), accelerator("A100-80GB"), micro_batch=1)
        assert all(price.looks <= price.seconds for price in prices)
        return {price.row: price.looks for price in prices}

    unseen, loss, metric = priced(""), priced(", evaluate_every: 15, evaluate_by: loss"), priced(", evaluate_every: 15")
    assert unseen["plain"] == 0.0
    # The rows twice, as against four profiles of task and general data, at the same operations a token.
    assert loss["plain"] / unseen["tracked"] == pytest.approx((2 * 20 * 128) / (4 * 2 * 4 * 64))
    assert loss["tracked"] == pytest.approx(loss["plain"] + unseen["tracked"])
    assert metric["plain"] > 2 * loss["plain"]  # answers of up to 40 tokens, each of which reads the weights


def test_a_device_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"--gpu H100: there are .*did you mean H100-80GB\?"):
        accelerator("H100")


def test_dense_gates_cost_a_pass_of_every_expert_over_every_token_and_no_more_forward() -> None:
    config, batch = build("olmoe").config, Batch(2, 16)
    full, dense = (simulate(config, method, Context(0), batch) for method in (FullFineTuning(), DenseMixer()))
    of_one = 2 * 3 * config.hidden_size * config.intermediate_size
    assert dense.forward == full.forward
    experts = config.num_hidden_layers * config.num_experts
    assert dense.operations - full.operations == experts * batch.tokens * of_one


def test_sequences_of_one_sample_are_priced_by_what_they_hold(tmp_path: Path) -> None:
    text = (
        "name: t\ntasks: [mini-law]\nmethods: {fft: {}}\nevaluation: {engine: transformers}\ntraining: {steps: 2, %s}\n"
    )
    prices = {}
    for told in ("packing: true", "packing: false"):
        made = harness_plans.prepared(tmp_path, text % f"batch_size: 2, sequence_length: 512, {told}")
        graph = harness_plans.graph_of(made)
        (prices[told],) = training_prices(made.plan, graph, accelerator("A100-80GB"), 1)
    (task,) = (data.training for name, data in made.plan.data.items() if data.training)
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE)
    rows = read_jsonl(task.path)[:100]
    tokens = [len(tokenizer.encode("".join(one["content"] for one in row))) for row in rows]
    share = prices["packing: false"].operations / prices["packing: true"].operations
    assert share == pytest.approx(sum(tokens) / len(tokens) / 512, rel=0.2)
