"""How many accelerators serve a model: by the estimate, by the suite, and what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from esft_bench.harness.commands import machines
from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.plan.price import serving as priced
from esft_bench.harness.plan.price.hardware import ACCELERATORS, GIB, Accelerator
from esft_bench.harness.plan.price.serving import BESIDES, cache_parts, gpus_to_serve, served_bytes, serving
from esft_bench.harness.plan.price.show import served
from esft_bench.spec.errors import UserError
from esft_bench.spec.sections import Evaluation
from esft_bench.tasks.mini import BACKBONE
from tests.harness.plans import graph_of, prepared
from tests.harness.runs import SUITE
from tests.harness.swaps import backbone


def plan(folder: Path = BACKBONE, dtype: str = "float32", **evaluation: Any) -> Any:
    """As much of a plan as says what is served."""
    told = Evaluation(max_length=4096, **evaluation)
    return SimpleNamespace(
        backbone=SimpleNamespace(path=folder),
        suite=SimpleNamespace(backbone=SimpleNamespace(trust_remote_code=False), evaluation=told),
        engine=SimpleNamespace(dtype=dtype, max_length=4096, external=bool(told.endpoints)),
    )


def test_weights_weigh_what_the_checkpoint_holds_and_the_cache_what_a_sequence_needs(tmp_path: Path) -> None:
    config = json.loads((BACKBONE / "config.json").read_text())
    numbers = sum(tensor.numel() for tensor in load_file(BACKBONE / "model.safetensors").values())
    weights, cache = served_bytes(plan(), config)
    assert weights == 4 * numbers
    assert cache == 4 * 4 * 2048 * (64 + 16)  # layers, the latent vector and the rotary key of each of 2048 tokens
    olmoe = backbone("olmoe", tmp_path)
    config = json.loads((olmoe / "config.json").read_text())
    heads, width = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
    _, cache = served_bytes(plan(olmoe, "bfloat16"), config)
    assert cache == 2 * config["num_hidden_layers"] * 256 * 2 * heads * width
    assert (cache_parts(config, 2), cache_parts({"kv_lora_rank": 64}, 8)) == (2, 1)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 100 GiB of weights, 16 heads and 4 GiB of cache, all of it on each device."""
    monkeypatch.setattr(priced, "served_bytes", lambda *_: (100.0 * GIB, 4.0 * GIB))
    config = {"num_attention_heads": 12, "kv_lora_rank": 512}
    monkeypatch.setattr(priced, "model_config", lambda _: config)


@pytest.mark.usefixtures("large")
def test_as_few_cards_as_hold_it_share_a_model() -> None:
    counts = {name: serving(plan(), card).devices for name, card in ACCELERATORS.items()}
    # 100 / n + 4 + 2 GiB, of 90% of a card; 8 do not divide the heads.
    assert counts == {
        **{"A100-40GB": 4, "A100-80GB": 2, "H100-80GB": 2, "H200-141GB": 1},
        **{"L40S-48GB": 4, "RTX4090-24GB": 0},
    }


@pytest.mark.usefixtures("large")
def test_a_suite_may_say_how_many_and_what_cannot_be_is_refused() -> None:
    cards = [("H100-80GB", 80.0 * GIB)] * 4
    assert gpus_to_serve(plan(), cards, 4) == 2
    assert gpus_to_serve(plan(tensor_parallel=4), cards, 4) == 4
    assert gpus_to_serve(plan(), [], 1) == 1
    assert gpus_to_serve(plan(endpoints=("http://there:8000",)), cards, 1) == 1
    with pytest.raises(UserError, match="tensor_parallel: 8 are wanted to serve a model, and a machine has 4"):
        gpus_to_serve(plan(tensor_parallel=8), cards, 4)
    with pytest.raises(UserError, match=r"takes 56 GiB of each of 2 × H100-80GB with 80 GiB, and a machine has 1"):
        gpus_to_serve(plan(), cards, 1)
    with pytest.raises(UserError, match=r"of each of 8 × small with 16 GiB, .* evaluation.endpoints"):
        gpus_to_serve(plan(), [("small", 16.0 * GIB)], 8)


@pytest.mark.usefixtures("large")
def test_a_plan_says_what_serves_a_model() -> None:
    small, large = ACCELERATORS["H100-80GB"], ACCELERATORS["H200-141GB"]
    assert served(plan(), small) == ("Served by 2 H100-80GB that share a model (tensor parallelism): 56.0 GiB each.")
    assert served(plan(), large) == "Served by one H200-141GB: 106.0 GiB or more."
    assert ", as the suite has it: " in served(plan(tensor_parallel=4), large)
    assert "more than 90% of its memory" in served(plan(tensor_parallel=1), small)
    assert "takes more than 8 RTX4090" in served(plan(), ACCELERATORS["RTX4090-24GB"])
    assert "http://there:8000, which others run" in served(plan(endpoints=("http://there:8000",)), small)
    assert served(plan(engine="transformers"), small) == ""


@given(st.floats(1, 500), st.floats(0, 40), st.integers(1, 200), st.integers(1, 200))
def test_a_larger_card_never_needs_more_of_its_kind(weights: float, cache: float, one: int, two: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priced, "served_bytes", lambda *_: (weights * GIB, cache * GIB))
        patch.setattr(priced, "model_config", lambda _: {"num_attention_heads": 16})
        small, large = (serving(plan(), Accelerator("x", size * GIB, 1.0, 1.0)) for size in sorted((one, two)))
    assert not small.devices or 1 <= large.devices <= small.devices
    assert small.bytes_each > BESIDES


def test_the_executor_of_one_machine_gives_its_engine_what_the_estimate_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(tmp_path, SUITE.replace("engine: ENGINE", "engine: transformers"))
    monkeypatch.setattr(machines, "_cards", lambda: [("card", 1.0)] * 4)
    monkeypatch.setattr(machines, "gpus_to_serve", lambda _plan, cards, most: len(cards) * most // 8)
    with machines.machines(made, graph_of(made), RunOptions(on="local")) as found:
        local: Any = found.executor(Panel([]), False)
    assert local._engines._making.tensor_parallel == 2
