"""What a cell changes is swapped into a served backbone, and the backbone's tensors back: on each architecture."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from esft_bench.harness.merging import Merger, Model
from esft_bench.harness.serving import server
from esft_bench.harness.serving.canary import compare
from esft_bench.harness.serving.engines import TransformersEngine, VllmEngine
from esft_bench.harness.serving.served import Served
from esft_bench.harness.serving.server import Settings, VllmServer
from esft_bench.methods.errors import MethodError
from tests.conftest import ARCHITECTURES
from tests.harness.swaps import Cell, backbone, cells, training
from tests.harness.vllm_forked import Parent

ORDER = ("experts", "others", "base", "all", "experts", "base")
"""Cells one after another: what none of two has in common, everything, and the backbone again."""
OF_ITS_OWN = ("gpt-oss",)
"""Loaded by vLLM in a way of its own, past its own reload: a cell there restarts the server."""


@pytest.fixture(params=ARCHITECTURES)
def each(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Cell]]:
    """An architecture and its cells."""
    return request.param, cells(backbone(request.param, tmp_path))


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    return cells(backbone("olmoe", tmp_path_factory.mktemp("olmoe")))


@pytest.fixture(scope="module")
def parent() -> Iterator[Parent]:
    pytest.importorskip("vllm")
    made = Parent()
    yield made
    made.close()


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_transformers_serves_one_cell_after_another_as_a_fresh_engine_would(each: tuple[str, dict[str, Cell]]) -> None:
    _, served = each
    engine = TransformersEngine(Settings(max_length=128))
    weights = served["base"].model.backbone / "model.safetensors"
    before = sha(weights)
    for number, name in enumerate(ORDER):
        cell = served[name]
        loaded = engine.load(cell.model, cell.canary)
        assert (loaded.how, loaded.difference < 1e-5) == ("swap" if number else "start", True)
    assert not any(path.is_file() for path in served["base"].model.scratch.rglob("*"))
    assert sha(weights) == before


def test_a_backbone_that_was_served_ahead_is_swapped_into(olmoe: dict[str, Cell]) -> None:
    engine = TransformersEngine(Settings(max_length=128))
    Served(lambda: engine).start(olmoe["base"].model.backbone)
    loaded = engine.load(olmoe["experts"].model, olmoe["experts"].canary)
    assert (loaded.how, loaded.difference < 1e-5) == ("swap", True)


@pytest.mark.slow
def test_vllm_serves_one_cell_after_another_as_a_fresh_server_would(
    each: tuple[str, dict[str, Cell]], parent: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, served = each
    alone: list[int] = []
    fresh: dict[str, float] = {}
    swap = VllmServer.swap

    def noted(*arguments: object) -> object:
        answer = swap(*arguments)  # type: ignore[arg-type]
        alone.append(answer["packed_alone"])
        return answer

    monkeypatch.setattr(VllmServer, "swap", noted)
    monkeypatch.setattr(server, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": parent.popen}))
    engine = VllmEngine(tmp_path / "logs", Settings(max_length=128))
    expected = "restart" if architecture in OF_ITS_OWN else "swap"
    try:
        for number, name in enumerate(ORDER[: 2 if architecture in OF_ITS_OWN else None]):
            loaded = engine.load(served[name].model, served[name].canary)
            assert (loaded.how, loaded.difference < 5e-5) == (expected if number else loaded.how, True)
            assert fresh.setdefault(name, loaded.difference) == loaded.difference
    finally:
        engine.close()
    if architecture not in (*OF_ITS_OWN, "granite-moe"):
        assert alone[:2] == [3, 3]  # the experts that changed, and then the backbone's back


def test_an_adapter_of_tensors_that_the_backbone_lacks_is_refused_and_the_next_cell_is_right(
    olmoe: dict[str, Cell], tmp_path: Path
) -> None:
    engine = TransformersEngine(Settings(max_length=128))
    base = olmoe["base"]
    stray = training(tmp_path / "stray", {"model.layers.9.mlp.gate.weight": torch.zeros(8, 64)})
    engine.load(olmoe["experts"].model, olmoe["experts"].canary)
    with pytest.raises(MethodError, match=r"changes `model.layers.9.mlp.gate.weight`, which .* does not have"):
        engine.load(Model(base.model.backbone, (stray,), tmp_path / "scratch"), base.canary)
    loaded = engine.load(olmoe["others"].model, olmoe["others"].canary)
    assert (loaded.how, loaded.difference < 1e-5) == ("swap", True)


def test_a_swap_that_goes_wrong_is_mended_by_the_merged_checkpoint(
    olmoe: dict[str, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(Settings(max_length=128))
    engine.load(olmoe["base"].model, olmoe["base"].canary)
    with monkeypatch.context() as sabotage:
        sabotage.setattr(engine, "replace", lambda *_: None)
        loaded = engine.load(olmoe["experts"].model, olmoe["experts"].canary)
    assert (loaded.how, loaded.difference < 1e-5) == ("restart", True)
    after = engine.load(olmoe["others"].model, olmoe["others"].canary)
    assert (after.how, after.difference < 1e-5) == ("swap", True)


def test_trainings_one_after_another_are_swapped_in_together(olmoe: dict[str, Cell], tmp_path: Path) -> None:
    engine = TransformersEngine(Settings(max_length=128))
    both = Model(
        olmoe["base"].model.backbone,
        (*olmoe["experts"].model.trained, *olmoe["others"].model.trained),
        tmp_path / "scratch",
    )
    fresh = TransformersEngine(Settings(max_length=128))
    with both.whole() as checkpoint:
        fresh._open(checkpoint)
        expected = fresh._measure(olmoe["base"].canary.prompts)
    engine.load(olmoe["base"].model, olmoe["base"].canary)
    assert engine.load(both, expected).difference < 1e-5
    assert compare(expected, olmoe["experts"].canary) > 1e-3


def test_a_cell_that_changes_the_configuration_is_served_from_its_own_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = backbone("olmoe", tmp_path)
    served = cells(base)
    trained = training(tmp_path / "grouped", load_file(base / "model.safetensors"))
    Merger(method="fft", hyperparameters={"group_size": 2}).save(trained)
    grouped = Model(base, (trained,), tmp_path / "scratch")
    engine = TransformersEngine(Settings(max_length=128))
    with grouped.whole() as checkpoint:
        top_k = json.loads((checkpoint / "config.json").read_text())["num_experts_per_tok"]
        engine._open(checkpoint)
        expected = engine._measure(served["base"].canary.prompts)
    assert top_k != json.loads((base / "config.json").read_text())["num_experts_per_tok"]
    engine.close()
    for name, how in (("base", "start"), ("", "restart"), ("others", "start"), ("base", "swap")):
        cell = served.get(name) or Cell(grouped, expected)
        loaded = engine.load(cell.model, cell.canary)
        assert (loaded.how, loaded.difference < 1e-5) == (how, True)


class Layer(nn.Module):
    """A layer with one matrix, as vLLM's are."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def load_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        for row, (_, tensor) in enumerate(weights):
            self.weight.weight_loader(self.weight.data[row], tensor)  # type: ignore[attr-defined]


def test_a_layer_that_serves_other_numbers_than_were_loaded_is_found_out() -> None:
    pytest.importorskip("vllm")
    from esft_bench.harness.serving.loads import loads_of
    from esft_bench.harness.serving.packing import proven

    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    layer = Layer(rows)
    (loads,) = loads_of(layer, [(str(number), row) for number, row in enumerate(rows)]).values()
    assert [load.tensor.tolist() for load in loads] == rows.tolist()
    assert proven(layer, loads)
    for wrong in (rows[[0, 1, 1]], rows * 1.0001, rows * float("nan"), torch.zeros(3, 4)):
        assert not proven(Layer(wrong), loads)
    assert proven(Layer(rows[[2, 0, 1]]), loads)  # packing may move numbers about
