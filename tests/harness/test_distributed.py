"""What trains is an ordinary parameter to DDP and FSDP2: two and four processes reach the weights of one."""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from esft_bench.harness.training.log import TrainingLog
from esft_bench.harness.training.loop import gathered
from tests.harness.forked import together
from tests.harness.ranks import LEFT, LOOKED_AT, METHODS, MOVED, RESUMED, part, prepared, run, two_types

STRATEGIES = ("ddp", "fsdp2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Path]:
    """The folders that four, and then two processes have trained all methods into."""
    folders = {count: tmp_path_factory.mktemp(f"ranks{count}") for count in (4, 2)}
    left = tmp_path_factory.mktemp("left")
    together(4, part, folders[4])
    for method in MOVED:
        shutil.copytree(folders[4] / "fsdp2" / method / LEFT, left / method / "moved")
    together(2, part, folders[2], left)
    return folders | {0: left}


@cache
def alone(method: str) -> tuple[dict[str, Tensor], TrainingLog, dict[str, Tensor]]:
    """What one process reaches and tells, and what it began with."""
    before = {name: tensor.clone() for name, tensor in prepared(METHODS[method])[0].state_dict().items()}
    with TemporaryDirectory() as scratch:
        model, log = run(method, Path(scratch))
    return model.state_dict(), log, before


def check_same(method: str, scratch: Path) -> TrainingLog:
    """Hold what lies in a scratch folder against what one process reaches; returns its log."""
    weights, log, before = alone(method)
    model, _ = prepared(METHODS[method])
    found = gathered(model, scratch)
    torch.testing.assert_close(found.losses, log.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.scores, log.scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.validation, log.validation, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.routing, log.routing, rtol=1e-4, atol=1e-5)
    if method in LOOKED_AT:
        assert [step for step, _ in found.routing] == [0, *(step for step, _ in found.scores)] == [0, 2, 4]
    torch.testing.assert_close(found.gradient_norms, log.gradient_norms, rtol=1e-4, atol=1e-6)
    moved = 0.0
    for name, tensor in weights.items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=2e-6, msg=name)
        moved = max(moved, float((tensor - before[name]).abs().max()))
    assert moved > 1e-3
    return found


@pytest.mark.parametrize(
    ("strategy", "count", "method", "course"),
    [
        *((strategy, count, method, "whole") for strategy in STRATEGIES for count in (2, 4) for method in METHODS),
        *(("ddp", 2, method, "resumed") for method in RESUMED),
        *(("fsdp2", count, method, "resumed") for count in (2, 4) for method in RESUMED),
    ],
)
def test_several_processes_reach_the_weights_one_reaches_with_the_same_batch(
    trained: Mapping[int, Path], count: int, strategy: str, method: str, course: str
) -> None:
    check_same(method, trained[count] / strategy / method / course)


@pytest.mark.parametrize("method", MOVED)
def test_two_processes_go_on_from_the_checkpoint_of_four(trained: Mapping[int, Path], method: str) -> None:
    check_same(method, trained[0] / method / "moved")


@pytest.mark.parametrize("method", MOVED)
def test_one_process_goes_on_from_the_checkpoint_of_four(
    trained: Mapping[int, Path], tmp_path: Path, method: str
) -> None:
    shutil.copytree(trained[4] / "fsdp2" / method / LEFT, tmp_path / "key")
    steps: list[int] = []
    model, log = run(method, tmp_path / "key", progress=lambda step, of: steps.append(step))
    weights, expected, _ = alone(method)
    assert steps == [3, 4]
    torch.testing.assert_close(log.losses, expected.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=2e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_gradients_of_what_is_trained_are_reduced_and_no_others(trained: Mapping[int, Path], count: int) -> None:
    counted = json.loads((trained[count] / "reduced.json").read_text())
    assert counted.keys() == METHODS.keys()
    assert all(seen == expected for seen, expected in counted.values()), counted
    assert counted["esft-token"][0] < counted["fft"][0] / 3


@pytest.mark.parametrize("count", [2, 4])
def test_float32_banks_are_trained_beside_frozen_bfloat16(
    trained: Mapping[int, Path], tmp_path: Path, count: int
) -> None:
    model, log = two_types(tmp_path)
    shared, parameters = prepared(METHODS["esft-token"], dtype=torch.bfloat16)
    found = gathered(shared, trained[count] / "two types")
    torch.testing.assert_close(found.losses, log.losses, rtol=2e-2, atol=0)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all(torch.equal(shared.state_dict()[name], model.state_dict()[name]) for name in frozen)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
