"""What a plan knows of rows whose experts are shared out, what it refuses, and what other rows notice: nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from esft_bench.harness.commands import machines
from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.commands.prepare import Prepared
from esft_bench.harness.plan.price import needs
from esft_bench.harness.plan.price.estimate import training_prices
from esft_bench.harness.plan.price.fleet import Fleet
from esft_bench.harness.plan.price.hardware import MARGIN, Accelerator, accelerator
from esft_bench.harness.plan.price.sharded import Sharing, held_whole, sharings
from esft_bench.harness.plan.price.show import price_tables, sharing_table
from esft_bench.harness.steps.rehearse import rehearsed
from esft_bench.harness.steps.step import Job, Parallelism
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.training.together.sharding import give_room
from esft_bench.methods.errors import MethodError
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.moe.places import read_into
from esft_bench.methods.moe.unread import Unread
from esft_bench.methods.tensor_files import tensor_files
from esft_bench.spec.errors import UserError
from tests.conftest import build
from tests.harness.conftest import BACKBONE
from tests.harness.plans import graph_of, prepared
from tests.harness.runs import SUITE
from tests.methods.helpers import TRAINING, seen_by

MORE = "  dynamic: {method: esft-dynamic}\n  gradual: {method: esft-gradual}\n"
"""Rows that share nothing out."""


def planned(folder: Path, shares: int | None, more: str = "") -> Prepared:
    """The small suite, planned, with experts shared out among so many, and more rows."""
    told = f", expert_parallel: {shares}}}" if shares else "}"
    text = SUITE.replace("sequence_length: 128}", f"sequence_length: 128{told}", 1).replace("ENGINE", "transformers")
    folder.mkdir(exist_ok=True)
    return prepared(folder, text.replace("training: {", f"{more}training: {{", 1))


def training(made: Prepared, row: str) -> TrainStep:
    return next(path.training for cell, path in made.plan.paths.items() if cell.method == row)


def shared(made: Prepared, device: Accelerator) -> dict[str, Sharing]:
    graph = graph_of(made)
    prices = training_prices(made.plan, graph, device, 1)
    return {each.row: each for each in sharings(made.plan, graph, device, prices, 1)}


def test_rows_whose_experts_are_shared_out_are_told_memory_and_time_of_each_device(tmp_path: Path) -> None:
    big = accelerator("A100-80GB")
    two, four = (shared(planned(tmp_path, count), big) for count in (2, 4))
    assert two.keys() == four.keys() == {"ESFT-Token", "Random", "FFT"}
    price = training_prices(planned(tmp_path, None).plan, graph_of(planned(tmp_path, None)), big, 1)
    (alone,) = [each for each in price if each.row == "ESFT-Token"]
    assert (two["ESFT-Token"].devices, four["ESFT-Token"].devices) == (2, 4)
    assert alone.peak_bytes > two["ESFT-Token"].bytes_each > four["ESFT-Token"].bytes_each > alone.peak_bytes / 4
    for found in (two["ESFT-Token"], four["ESFT-Token"]):  # two of four have no sequence
        assert found.seconds - found.sending == pytest.approx(alone.seconds / 2)


def test_tokens_on_their_way_to_experts_take_the_time_that_their_bytes_do(tmp_path: Path) -> None:
    device = accelerator("A100-80GB")
    made = planned(tmp_path, 2)
    config = made.plan.backbone.path / "config.json"
    told = json.loads(config.read_text())
    training = made.plan.suite.training
    tokens = training.batch_size / 2 * training.sequence_length
    dense = told.get("first_k_dense_replace", 0)
    numbers = tokens * told["hidden_size"] * told["num_experts_per_tok"] * (told["num_hidden_layers"] - dense)
    there_and_back_and_gradients_of_both = 4
    half_is_for_the_other = 2
    step = numbers * 4 * there_and_back_and_gradients_of_both / half_is_for_the_other
    sending = shared(made, device)["ESFT-Token"].sending
    assert sending == pytest.approx(training.steps * step / (0.25 * 300e9))
    assert shared(planned(tmp_path / "again", 4), device)["FFT"].sending == pytest.approx(0.75 / 0.5 * sending)
    sixteen = shared(planned(tmp_path / "nodes", 16), device)["ESFT-Token"].sending  # a half behind the network
    assert sixteen == pytest.approx(training.steps * step * 2 / 16 * (7 / 300e9 + 8 / 25e9) / 0.25)


def test_rows_that_share_no_experts_out_are_named_with_the_reason(tmp_path: Path) -> None:
    made = planned(tmp_path, 2, MORE)
    tables = price_tables(made.plan, graph_of(made), Fleet(accelerator("A100-80GB"), 1), 1)
    said = " ".join(str(table.caption) for table in tables)
    assert (
        "Trained as without training.expert_parallel: dynamic: it changes which experts are trained; gradual: " in said
    )
    assert not held_whole(planned(tmp_path / "again", 2).plan)
    assert not held_whole(planned(tmp_path / "without", None, MORE).plan)


def test_a_device_that_does_not_hold_its_share_is_told_of_and_no_run_begins_on_it(tmp_path: Path) -> None:
    made = planned(tmp_path, 2)
    each = shared(made, accelerator("A100-80GB"))["ESFT-Token"].bytes_each
    small = Accelerator("small", 0.9 * each / MARGIN, 1e12, 1e12)
    found = shared(made, small)
    assert not found["ESFT-Token"].holds
    assert not found["FFT"].holds
    assert "more devices must share the experts" in str(sharing_table(list(found.values()), small).caption)
    fits = Accelerator("fits", 1.1 * each / MARGIN, 1e12, 1e12)
    assert shared(made, fits)["ESFT-Token"].holds
    with pytest.raises(UserError, match=r"^methods\.(fft|esft-token|random-token): a training needs"):
        needs.gpus_of_rows(made.plan, graph_of(made), [("small", small.memory)], [2], 1)


def test_processes_that_do_not_divide_the_experts_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(
        MethodError,
        match=r"^training\.expert_parallel: 64 experts of a layer cannot be shared out evenly among 3 processes;",
    ):
        planned(tmp_path, 3)


@pytest.mark.parametrize("shares", ["0", "1", "-1", "two", "2.5"])
def test_what_is_no_number_of_processes_is_refused(tmp_path: Path, shares: str) -> None:
    text = SUITE.replace("training: {", f"training: {{expert_parallel: {shares}, ").replace("ENGINE", "transformers")
    with pytest.raises(UserError, match=r"suite\.yaml, line \d+, training\.expert_parallel: Input should be .*$"):
        prepared(tmp_path, text)


def test_a_backbone_without_experts_has_none_to_share_out(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    build("dense", vocab_size=2048).save_pretrained(dense)
    AutoTokenizer.from_pretrained(BACKBONE).save_pretrained(dense)
    before, after = SUITE.index("  fft:"), SUITE.index("training:")
    told = SUITE[after:].replace("{", "{expert_parallel: 2, ", 1).replace("ENGINE", "transformers")
    text = f"{SUITE[:before]}  lora: {{}}\n{told}backbone: {{path: {dense}}}\n"
    with pytest.raises(MethodError, match=r"^training\.expert_parallel: LlamaForCausalLM has no routed experts"):
        prepared(tmp_path, text)


def test_an_optimizer_that_was_not_tried_with_it_is_refused(tmp_path: Path) -> None:
    text = SUITE.replace("training: {", "training: {expert_parallel: 2, optimizer: adamw-8bit, ")
    with pytest.raises(UserError, match=r"adamw-8bit (was not tried with training\.expert_parallel|needs torchao)"):
        prepared(tmp_path, text.replace("ENGINE", "transformers"))


def test_other_rows_are_what_they_are_without_it(tmp_path: Path) -> None:
    without, two = planned(tmp_path, None, MORE), planned(tmp_path, 2, MORE)
    assert training(two, "dynamic").settings == training(without, "dynamic").settings
    assert training(two, "esft-token").settings != training(without, "esft-token").settings
    assert training(two, "gradual").resources.gpus == 1
    assert training(two, "random-token").resources.gpus == 2


@pytest.mark.parametrize(("row", "processes"), [("dynamic", 3), ("esft-token", 2), ("fft", 2), ("base", 2)])
def test_a_training_takes_as_many_processes_as_share_its_experts(tmp_path: Path, row: str, processes: int) -> None:
    for step in (training(planned(tmp_path, 2, MORE), row), rehearsed(training(planned(tmp_path, 2, MORE), row))):
        told = step.told(Job({}, tmp_path, tmp_path, Parallelism(processes=3)))
        assert (told.processes, told.apart) == (processes, row != "dynamic")


def test_a_machine_with_fewer_gpus_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(tmp_path, 4)
    monkeypatch.setattr(machines, "_gpus", lambda: 2)
    with pytest.raises(UserError, match=r"^training\.expert_parallel 4: this machine has 2 GPU\(s\)\.$"):
        machines._on_this_machine(RunOptions(), made)
    monkeypatch.setattr(machines, "_gpus", lambda: 4)
    with pytest.raises(UserError, match=r"^training\.expert_parallel 4 uses the GPUs for one cell at a time"):
        machines._on_this_machine(RunOptions(workers=2), made)
    assert machines._on_this_machine(RunOptions(), made).workers == 1


METHODS = TRAINING | {"fft of groups": FullFineTuning(group_size=2)}
APART = [name for name, method in TRAINING.items() if method.expert_parallel]


def written(folder: Path) -> tuple[dict[str, bytes], dict[str, Tensor]]:
    """What is in a folder: the JSON as it is, and all tensors."""
    tensors = {
        f"{path.parent.name}/{n}": t for path in folder.rglob("*.safetensors") for n, t in load_file(path).items()
    }
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.json"))}, tensors


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        *((name, "deepseek-v2") for name in APART),
        ("fft", "deepseek-v3"),
        ("densemixer-lora", "deepseek-v3"),
        ("fft of groups", "deepseek-v3"),
        ("fft", "gpt-oss"),
        ("das-tune", "granite-moe"),
    ],
)
def test_what_was_trained_is_exported_without_any_other_weights(name: str, architecture: str, tmp_path: Path) -> None:
    method, context = METHODS[name], seen_by(build(architecture))
    whole = build(architecture)
    whole.save_pretrained(tmp_path / "base")
    files = tensor_files(tmp_path / "base")
    method.prepare(whole, context)
    with torch.device("meta"):
        shapes = build(architecture)
    method.prepare(shapes, replace(context, unread=Unread(files)))
    give_room(shapes)
    with torch.no_grad():
        for key, parameter in shapes.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(whole.get_parameter(key).add_(0.25))
    read_into(shapes, method.also_written(shapes), files)
    for place, model in (("of whole", whole), ("of shapes", shapes)):
        (tmp_path / place / "out").mkdir(parents=True)
        method.export(model, tmp_path / place / "out")
    (jsons, tensors), (theirs, found) = written(tmp_path / "of whole"), written(tmp_path / "of shapes")
    assert jsons == theirs
    assert tensors.keys() == found.keys() != set()
    assert all(torch.equal(tensor, found[key]) for key, tensor in tensors.items())


def test_methods_that_change_what_they_train_share_nothing_out() -> None:
    assert set(TRAINING) - set(APART) == {"esft-dynamic", "esft-gradual"}
