"""Cells whose experts two processes share out: what comes out, and what becomes of one that goes wrong."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from esft_bench.harness.serving.canary import Canary, compare
from esft_bench.harness.store.names import ADAPTER, AFTER, CANARY, LOG, SECOND
from esft_bench.harness.training import cell as cells
from esft_bench.harness.training import profiling_apart, untrained
from esft_bench.harness.training.cell import train_cell
from esft_bench.harness.training.profiling import Start, profile_task
from esft_bench.harness.training.together.launching import launch
from esft_bench.harness.training.together.machines import SHARDED, Crew
from esft_bench.harness.training.told import CellTraining
from esft_bench.methods.moe.profile import STATISTICS, Profile
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import write_jsonl
from esft_bench.spec.suite import Backbone, Profiling
from esft_bench.spec.training import Training
from tests.harness import forked
from tests.harness.conftest import BACKBONE

pytestmark = pytest.mark.slow
SHORT = Profiling(sequences=4, sequence_length=48)
PROFILED: dict[str, Any] = {"profiling": SHORT, "profile_after": True}
Make = Callable[..., CellTraining]
Alone = tuple[CellTraining, dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task's conversations, and the backbone's profile on them."""
    folder = tmp_path_factory.mktemp("data")
    turns = [("user", "Add {} and 2."), ("assistant", "{} and 2")]
    rows = [[{"role": role, "content": text.format(n)} for role, text in turns] for n in range(40)]
    write_jsonl(folder / "task.jsonl", rows)
    (folder / "profile").mkdir()
    profile_task(Start(BACKBONE, Backbone()), folder / "task.jsonl", SHORT, folder / "profile", folder)
    return folder


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are forked, but where a test starts them as a run does."""
    for module in (cells, untrained, profiling_apart):
        monkeypatch.setattr(module, "launch", forked.launch)


def made(place: Path, data: Path, name: str, processes: int, **more: Any) -> CellTraining:
    """A cell in a folder of its own name, trained by so many processes."""
    out, scratch = place / name / "out", place / name / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    shares = processes if processes > 1 else None
    training = Training(steps=3, batch_size=4, sequence_length=48, learning_rate=1e-3, expert_parallel=shares)
    told = {"loading": Backbone(), "tasks": [data / "task.jsonl"], "profiles": [data / "profile"], "seed": 0}
    told |= {"method": "esft-token", "hyperparameters": {}, "training": training, "processes": processes}
    return CellTraining(**{"backbone": BACKBONE, "out": out, "scratch": scratch, **told, **more})


@pytest.fixture
def make(data: Path, tmp_path: Path) -> Make:
    """`make(name, processes, …)`: such a cell."""
    return partial(made, tmp_path, data)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The cell that one process has trained, and what it cost."""
    cell = made(tmp_path_factory.mktemp("alone"), data, "one", 1, **PROFILED)
    return cell, train_cell(cell, silent)


def adapter(cell: CellTraining) -> dict[str, Tensor]:
    (weights,) = (cell.out / ADAPTER).glob("*.safetensors")
    tensors: dict[str, Tensor] = load_file(weights)
    return tensors


def silent(step: int, steps: int) -> None:
    """Nobody is told."""


def check_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    # AdamW's first steps are as long for a gradient that is all rounding: a few weights differ more.
    apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    assert float(apart.max()) < 1e-4
    assert int((apart > 1e-6).sum()) < len(apart) / 10_000


def test_a_cell_whose_experts_two_processes_hold_is_the_cell_one_trains(make: Make, alone: Alone) -> None:
    one, two = alone[0], make("two", 2, **PROFILED)
    seen = [alone[1], train_cell(two, silent)]
    check_same(adapter(one), adapter(two))
    configs = [json.loads((cell.out / ADAPTER / "expert_cfg.json").read_text()) for cell in (one, two)]
    assert configs[0] == configs[1]
    losses = [json.loads((cell.out / LOG).read_text())["losses"] for cell in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert compare(*(Canary.load(cell.out / CANARY) for cell in (one, two))) < 1e-4
    after = [Profile.load(cell.out / AFTER) for cell in (one, two)]
    assert torch.equal(after[0].token_counts, after[1].token_counts)
    torch.testing.assert_close(after[0].norm_sums, after[1].norm_sums, rtol=1e-5, atol=0)
    assert [each["trainable_parameters"] for each in seen] == [seen[0]["trainable_parameters"]] * 2
    assert seen[1]["processes"] == 2


def check_alike(one: CellTraining, two: CellTraining) -> None:
    """Two cells leave the same adapter, and models that answer the same."""
    check_same(adapter(one), adapter(two))
    assert compare(*(Canary.load(cell.out / CANARY) for cell in (one, two))) < 1e-4


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("fft", {"group_size": 2}),
        ("kappa", {"count": 6}),
        ("esft-lora", {}),
        ("esft-token", {"group_size": 2}),
    ],
)
def test_methods_that_train_all_experts_or_updates_or_look_at_weights_or_routing_leave_what_one_process_leaves(
    make: Make, data: Path, method: str, told: dict[str, Any]
) -> None:
    more = {"method": method, "hyperparameters": told, "general": data / "profile", "profiling": SHORT}
    one, two = (make(f"{count}", count, **more) for count in (1, 2))
    seen = [train_cell(cell, silent) for cell in (one, two)]
    check_alike(one, two)
    assert [each["trainable_parameters"] for each in seen] == [seen[0]["trainable_parameters"]] * 2


def test_two_stages_by_two_processes_each_leave_what_one_process_leaves(make: Make) -> None:
    told = {"count": 20, "advantage": False}
    seconds = []
    for count in (1, 2):
        first = make(f"first {count}", count, method="attention-router")
        train_cell(first, silent)
        seconds.append(make(f"second {count}", count, method="das-tune", hyperparameters=told, trained=[first.out]))
        train_cell(seconds[-1], silent)
    check_alike(*seconds)


@pytest.mark.parametrize("apart", [True, False], ids=["experts apart", "FSDP2"])
def test_of_the_base_model_processes_that_share_it_leave_the_canary(
    make: Make, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    one, two = (make(f"{count}", count, method="base") for count in (1, 2))
    if not apart:
        monkeypatch.setenv(SHARDED, "1")
        two = two.model_copy(update={"training": one.training})
    seen = [train_cell(cell, silent) for cell in (one, two)]
    assert compare(*(Canary.load(cell.out / CANARY) for cell in (one, two))) < 1e-5
    assert seen[1]["processes"] == 2
    assert list((two.out / ADAPTER).iterdir()) == []


def test_a_rehearsal_is_by_the_processes_that_train_and_leaves_every_expert_as_it_was(make: Make) -> None:
    cell = make("rehearsed", 2, rehearsed=True)
    measured = train_cell(cell, silent)
    whole = load_file(BACKBONE / "model.safetensors")
    tensors = adapter(cell)
    assert tensors
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors.items())
    assert (measured["processes"], measured["steps"]) == (2, 0)
    assert Canary.load(cell.out / CANARY)


def test_a_profile_by_two_processes_that_hold_some_experts_each_is_the_profile_of_one(
    data: Path, tmp_path: Path
) -> None:
    start = Start(BACKBONE, Backbone())
    measured = profiling_apart.profile_apart(start, data / "task.jsonl", SHORT, tmp_path, tmp_path, Crew(2))
    one, two = Profile.load(data / "profile"), Profile.load(tmp_path)
    for name in STATISTICS:
        torch.testing.assert_close(getattr(two, name), getattr(one, name), rtol=1e-5, atol=1e-7)
    assert torch.equal(one.token_counts, two.token_counts)
    assert (tmp_path / SECOND).exists() == (data / "profile" / SECOND).exists()
    assert measured["processes"] == 2


@pytest.mark.parametrize(
    ("process", "reads"), [(1, 100), (0, 400)], ids=["while it reads its experts", "while it reads all else"]
)
def test_of_a_process_that_is_killed_while_it_reads_nothing_is_left_and_the_next_try_is_whole(
    make: Make, alone: Alone, monkeypatch: pytest.MonkeyPatch, process: int, reads: int
) -> None:
    cell, ends = make("killed", 2), "tests.harness.toys:ends_while_it_reads"
    with monkeypatch.context() as patch:
        patch.setattr(cells, "launch", lambda _, told, *more: launch(ends, told | {"ends": [process, reads]}, *more))
        with pytest.raises(UserError, match=r"^One of the 2 processes that train together was ended from outside"):
            train_cell(cell, silent)
    assert not list(cell.out.iterdir())
    assert not list(cell.scratch.glob("checkpoint*"))
    train_cell(cell, silent)
    check_same(adapter(alone[0]), adapter(cell))


def test_an_expert_that_the_checkpoint_lacks_is_one_sentence(make: Make, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(BACKBONE, broken)
    tensors = load_file(BACKBONE / "model.safetensors")
    name = next(name for name in tensors if ".experts.63." in name)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, broken / "model.safetensors")
    cell = make("broken", 2, backbone=broken)
    with pytest.raises(UserError, match=r"has `.*` as \[63, .*\], which is to be \[64, .*\] by"):
        train_cell(cell, silent)
    assert not list(cell.out.iterdir())


def test_a_machine_without_room_for_the_experts_is_found_out_before_anything_is_read(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = type("Memory", (), {"available": 10_000_000})
    monkeypatch.setattr("esft_bench.harness.training.together.room.psutil.virtual_memory", lambda: available)
    cell = make("small", 2)
    with pytest.raises(UserError, match=r"^2 processes need 0\.0 GiB of main memory to load the model, and 0\.0 GiB"):
        train_cell(cell, silent)
    assert not list(cell.out.iterdir())
    assert not list(cell.scratch.iterdir())
