"""What a plan knows of rows whose experts are shared out, what it refuses, and what other rows notice: nothing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from esft_bench.harness.commands import machines
from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.commands.prepare import Prepared
from esft_bench.harness.plan.price import needs
from esft_bench.harness.plan.price.estimate import training_prices
from esft_bench.harness.plan.price.hardware import MARGIN, Accelerator, accelerator
from esft_bench.harness.plan.price.sharded import Sharing, sharings
from esft_bench.harness.plan.price.show import sharing_table
from esft_bench.harness.steps.step import Job, Parallelism
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.training.together.sharding import give_room
from esft_bench.methods.errors import MethodError
from esft_bench.spec.errors import UserError
from tests.conftest import build
from tests.harness.plans import graph_of, prepared
from tests.harness.runs import SUITE
from tests.methods.helpers import TRAINING, seen_by


def planned(folder: Path, shares: int | None) -> Prepared:
    """The small suite, planned, with experts shared out among so many."""
    told = f", expert_parallel: {shares}}}" if shares else "}"
    text = SUITE.replace("sequence_length: 128}", f"sequence_length: 128{told}", 1).replace("ENGINE", "transformers")
    return prepared(folder, text)


def training(made: Prepared, row: str) -> TrainStep:
    return next(path.training for cell, path in made.plan.paths.items() if cell.method == row)


def shared(made: Prepared, device: Accelerator) -> dict[str, Sharing]:
    graph = graph_of(made)
    prices = training_prices(made.plan, graph, device, 1)
    return {each.row: each for each in sharings(made.plan, graph, device, prices, 1)}


def test_rows_whose_experts_are_shared_out_are_told_memory_and_time_of_each_device(tmp_path: Path) -> None:
    big = accelerator("A100-80GB")
    two, four = (shared(planned(tmp_path, count), big) for count in (2, 4))
    assert two.keys() == four.keys() == {"ESFT-Token", "Random"}
    price = training_prices(planned(tmp_path, None).plan, graph_of(planned(tmp_path, None)), big, 1)
    (alone,) = [each for each in price if each.row == "ESFT-Token"]
    assert (two["ESFT-Token"].devices, four["ESFT-Token"].devices) == (2, 4)
    assert alone.peak_bytes > two["ESFT-Token"].bytes_each > four["ESFT-Token"].bytes_each > alone.peak_bytes / 4
    assert two["ESFT-Token"].seconds == pytest.approx(alone.seconds / 2)
    assert four["ESFT-Token"].seconds == pytest.approx(alone.seconds / 2)  # two of four have no sequence


def test_a_device_that_does_not_hold_its_share_is_told_of_and_no_run_begins_on_it(tmp_path: Path) -> None:
    made = planned(tmp_path, 2)
    each = shared(made, accelerator("A100-80GB"))["ESFT-Token"].bytes_each
    small = Accelerator("small", 0.9 * each / MARGIN, 1e12, 1e12)
    found = shared(made, small)
    assert not found["ESFT-Token"].holds
    assert found["FFT"].devices != 1  # by FSDP2, as ever
    assert "more devices must share the experts" in str(sharing_table(list(found.values()), small).caption)
    fits = Accelerator("fits", 1.1 * each / MARGIN, 1e12, 1e12)
    assert shared(made, fits)["ESFT-Token"].holds
    with pytest.raises(UserError, match=r"^methods\.(fft|esft-token|random-token): a training needs"):
        needs.gpus_of_rows(made.plan, graph_of(made), [("small", small.memory)], 2, 1)


def test_processes_that_do_not_divide_the_experts_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(
        MethodError, match=r"^methods\.esft-token: 64 experts of a layer cannot be shared out evenly among 3 processes;"
    ):
        planned(tmp_path, 3)


def test_an_optimizer_that_was_not_tried_with_it_is_refused(tmp_path: Path) -> None:
    text = SUITE.replace("training: {", "training: {expert_parallel: 2, optimizer: adamw-8bit, ")
    with pytest.raises(UserError, match=r"adamw-8bit (was not tried with training\.expert_parallel|needs torchao)"):
        prepared(tmp_path, text.replace("ENGINE", "transformers"))


def test_other_rows_are_what_they_are_without_it(tmp_path: Path) -> None:
    without, two = planned(tmp_path, None), planned(tmp_path, 2)
    assert training(two, "fft").settings == training(without, "fft").settings
    assert training(two, "esft-token").settings != training(without, "esft-token").settings
    assert training(two, "fft").resources.gpus == 1
    assert training(two, "random-token").resources.gpus == 2


@pytest.mark.parametrize(("row", "processes"), [("fft", 3), ("esft-token", 2)])
def test_a_training_takes_as_many_processes_as_share_its_experts(tmp_path: Path, row: str, processes: int) -> None:
    step = training(planned(tmp_path, 2), row)
    told = step.told(Job({}, tmp_path, tmp_path, Parallelism(processes=3)))
    assert (told.processes, told.apart) == (processes, row != "fft")


def test_a_machine_with_fewer_gpus_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(tmp_path, 4)
    monkeypatch.setattr(machines, "_gpus", lambda: 2)
    with pytest.raises(UserError, match=r"^training\.expert_parallel 4: this machine has 2 GPU\(s\)\.$"):
        machines._on_this_machine(RunOptions(), made)
    monkeypatch.setattr(machines, "_gpus", lambda: 4)
    with pytest.raises(UserError, match=r"^training\.expert_parallel 4 uses the GPUs for one cell at a time"):
        machines._on_this_machine(RunOptions(workers=2), made)
    assert machines._on_this_machine(RunOptions(), made).workers == 1


APART = [name for name, method in TRAINING.items() if method.expert_parallel]


@pytest.mark.parametrize("name", APART)
def test_what_was_trained_is_exported_without_any_other_weights(name: str, tmp_path: Path) -> None:
    method, context = TRAINING[name], seen_by(build("deepseek-v2"))
    whole = build("deepseek-v2")
    method.prepare(whole, context)
    with torch.device("meta"):
        shapes = build("deepseek-v2")
    method.prepare(shapes, context)
    give_room(shapes)
    with torch.no_grad():
        for key, parameter in shapes.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(whole.get_parameter(key).add_(0.25))
    written = []
    for folder, model in ((tmp_path / "whole", whole), (tmp_path / "shapes", shapes)):
        folder.mkdir()
        method.export(model, folder)
        written.append({path.name: path.read_bytes() for path in sorted(folder.glob("*.json"))})
    assert written[0] == written[1]
    tensors = [load_file(tmp_path / place / "adapter_model.safetensors") for place in ("whole", "shapes")]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())


def test_methods_that_look_at_other_weights_or_change_what_they_train_share_nothing_out() -> None:
    assert {"esft-token", "esft-gate", "random-experts", "esft-shared", "esft-non-experts"} <= set(APART)
    assert not {"fft", "lora", "das-tune", "esft-dynamic", "esft-gradual", "esft-lora", "kappa"} & set(APART)
