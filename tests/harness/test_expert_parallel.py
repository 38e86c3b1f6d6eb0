"""Processes that each hold some of the experts reach the weights that one reaches, and hold their share alone."""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from esft_bench.harness.plan.price.step import Batch, Execution, simulate
from esft_bench.harness.training.log import TrainingLog
from esft_bench.harness.training.loop import gathered
from esft_bench.harness.training.together.sharding import give_room
from esft_bench.methods.densemixer import DenseMixer
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.moe.view import moe_layers
from tests.conftest import build
from tests.harness.expert_ranks import CASES, FOUR, GO_ON, digests, part, prepared, run
from tests.harness.forked import together
from tests.harness.ranks import LEFT
from tests.methods.helpers import seen_by

pytestmark = pytest.mark.slow
HELD = [
    (case, count)
    for count, cases in ((2, CASES), (4, FOUR))
    for case in cases
    if not isinstance(CASES[case][1], FullFineTuning | DenseMixer)
]
"""Cases in which experts' own tensors stay as they were, and by how many processes they are trained."""
Trained = Callable[[str], Mapping[int, Path]]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints that processes read their experts from."""
    folder = tmp_path_factory.mktemp("bases")
    for architecture in {architecture for architecture, _ in CASES.values()}:
        build(architecture).save_pretrained(folder / architecture)
    return folder


@pytest.fixture(scope="module")
def trained(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`trained(case)`: the folders that four, and then two have trained it into; 0: two, gone on from four."""

    @cache
    def folders_of(case: str) -> Mapping[int, Path]:
        folders = {count: tmp_path_factory.mktemp(f"experts{count}") for count in (4, 2, 0)}
        if case in FOUR:
            together(4, part, case, bases, folders[4])
        if case in GO_ON:
            shutil.copytree(folders[4] / LEFT, folders[0], dirs_exist_ok=True)
        together(2, part, case, bases, folders[2], folders[0])
        return folders

    return folders_of


@cache
def alone(case: str) -> tuple[dict[str, Tensor], TrainingLog, dict[str, Tensor]]:
    """What one process reaches and tells, and what it began with."""
    before = build(CASES[case][0])
    prepared(case, before)
    model = build(CASES[case][0])
    with TemporaryDirectory() as scratch:
        log = run(case, model, Path(scratch))
    return model.state_dict(), log, before.state_dict()


def check_same(case: str, scratch: Path, base: Path) -> None:
    """Hold what lies in a scratch folder, gathered without any other weights, against what one process reaches."""
    weights, log, before = alone(case)
    with torch.device("meta"):
        model = build(CASES[case][0])
    prepared(case, model, base)
    give_room(model)
    found = gathered(model, scratch)
    torch.testing.assert_close(found.losses, log.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.gradient_norms, log.gradient_norms, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.validation, log.validation, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.scores, log.scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.routing, log.routing, rtol=1e-4, atol=1e-5)
    moved = 0.0
    for name, parameter in model.named_parameters():
        assert parameter.is_meta != parameter.requires_grad, name
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.detach(), weights[name], rtol=0, atol=2e-6, msg=name)
            moved = max(moved, float((weights[name] - before[name]).abs().max()))
    assert moved > 1e-3


@pytest.mark.parametrize(
    ("case", "course", "count"),
    [
        *((case, "whole", 2) for case in CASES),
        *((case, "whole", 4) for case in FOUR),
        *((case, "resumed", count) for case in GO_ON for count in (2, 4)),
    ],
)
def test_processes_that_hold_some_experts_each_reach_the_weights_one_reaches(
    trained: Trained, bases: Path, case: str, course: str, count: int
) -> None:
    check_same(case, trained(case)[count] / course, bases / CASES[case][0])


@pytest.mark.parametrize("case", GO_ON)
def test_two_processes_go_on_from_what_four_left_whichever_experts_they_held(
    trained: Trained, bases: Path, case: str
) -> None:
    check_same(case, trained(case)[0], bases / CASES[case][0])


@pytest.mark.parametrize(("case", "count"), HELD)
def test_processes_hold_equally_many_experts_and_train_as_many_each_but_for_one(
    trained: Trained, count: int, case: str
) -> None:
    held: list[dict[str, Any]] = json.loads((trained(case)[count] / "held.json").read_text())
    model = build(CASES[case][0])
    whole = [digests(layer) for layer in moe_layers(model).values()]
    prepared(case, model)
    selected = [len(layer.experts.selected_ids) for layer in moe_layers(model).values()]  # type: ignore[arg-type]
    assert all(own["experts"] == [8 // count] * len(whole) for own in held)
    for row, total in enumerate(selected):
        trains = [own["trained"][row] for own in held]
        assert sum(trains) == total
        assert max(trains) - min(trains) <= 1
    totals = [sum(own["trained"]) for own in held]
    assert max(totals) - min(totals) <= 1
    for row, experts in enumerate(whole):  # together they hold every expert once, to the last bit as it was
        assert sorted(digest for own in held for digest in own["rows"][row]) == sorted(experts)


@pytest.mark.parametrize(
    ("case", "count"),
    [each for each in HELD if each[0] in ("olmoe gate", "deepseek gate", "lora of experts", "esft-lora")]
    + [("fft", 2), ("fft", 4), ("fft of fused experts", 2), ("densemixer", 2), ("densemixer-lora", 4)],
)
def test_a_plan_knows_what_a_process_has_for_itself(trained: Trained, count: int, case: str) -> None:
    architecture, method = CASES[case]
    model = build(architecture)
    how = Execution(shared=True, apart=count)
    step = simulate(model.config, method, seen_by(model), Batch(1, 12), how)
    held = json.loads((trained(case)[count] / "held.json").read_text())
    states = 2 * step.own_trainable_bytes
    steps = step.own_bytes - states - max(own["bytes"] for own in held)
    assert 0 <= steps <= 4 * 4 * len(moe_layers(model))  # AdamW counts a parameter's steps, too, in four bytes
