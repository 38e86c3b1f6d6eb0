"""Runs that keep frozen experts in FP8, from the plan to what they leave."""

from pathlib import Path

import pytest

from esft_bench.harness.plan.price.step import Batch, Execution, simulate
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.method import Context
from esft_bench.methods.moe.assumed import assumed_profiles
from esft_bench.methods.moe.view import moe_layers
from esft_bench.spec.errors import UserError
from esft_bench.spec.training import Training
from tests.conftest import build
from tests.harness.quantised_runs import made_in, planned, quantised, run

FROZEN = "training.frozen_experts=fp8"


@pytest.mark.slow
def test_a_run_that_keeps_frozen_experts_in_fp8_ends_where_one_that_does_not(tmp_path: Path) -> None:
    packed, plain = quantised(tmp_path, "fp8")
    after = "profiling.after_training=true"
    run(tmp_path / "ours", packed, FROZEN, after)
    run(tmp_path / "theirs", plain, after)
    assert made_in(tmp_path / "ours") == made_in(tmp_path / "theirs")


def test_a_plan_counts_a_byte_for_each_number_of_a_frozen_expert() -> None:
    model = build("qwen3-moe", hidden_size=256, moe_intermediate_size=128, num_experts=16, num_hidden_layers=24)
    context = Context(seed=0, profile=assumed_profiles(moe_layers(model))[0])
    packed, plain = (
        simulate(model.config, EsftToken(p=0.2), context, Batch(1, 64), Execution("bf16", Training(frozen_experts=how)))
        for how in ("fp8", "as_loaded")
    )
    numbers = 24 * 16 * 3 * 256 * 128
    assert plain.weight_bytes - packed.weight_bytes == numbers - 4 * numbers // 128**2
    assert packed.trainable_parameters == plain.trainable_parameters
    assert packed.peak_bytes < plain.peak_bytes - 0.5 * numbers


@pytest.mark.parametrize(
    ("backbone", "changes", "sentence"),
    [
        ("plain", [], r"training\.frozen_experts: .* does not ship in FP8 by blocks"),
        ("packed", ["methods.d={method: esft-dynamic}"], r"methods\.d: the row changes its experts on the way"),
        ("packed", ["methods.s={method: das-tune}"], r"methods\.s: the row goes on from experts that were trained"),
    ],
)
def test_experts_that_are_not_those_that_ship_in_fp8_are_refused(
    tmp_path: Path, backbone: str, changes: list[str], sentence: str
) -> None:
    folder = dict(zip(("packed", "plain"), quantised(tmp_path, "fp8"), strict=True))[backbone]
    with pytest.raises(UserError, match=sentence):
        planned(tmp_path, folder, changes=[FROZEN, "alignment=mini-alignment", *changes])
