"""Engines that are servers of others: what is swapped into them, handed to them, or held against what they serve."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from esft_bench.harness.merging import Model
from esft_bench.harness.serving import endpoint as endpoints
from esft_bench.harness.serving.external import FixedEndpoints, SwappedEndpoint, plain_adapter
from esft_bench.harness.serving.served import make_engine
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.store.names import ADAPTER
from esft_bench.spec.errors import UserError
from esft_bench.spec.sections import Evaluation
from tests.harness.swaps import Cell, backbone, cells, training
from tests.harness.vllm_server import Vllm, serving

Start = Callable[..., Vllm]
ORDER = ("experts", "others", "base", "all", "base")


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    return cells(backbone("olmoe", tmp_path_factory.mktemp("olmoe")))


@pytest.fixture
def start(olmoe: dict[str, Cell], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a server on the backbone, or another folder; what is silent is waited for for a moment only."""
    monkeypatch.setattr(endpoints.Endpoint.wait, "__defaults__", (0.1,))
    with ExitStack() as stack:
        yield lambda root=olmoe["base"].model.backbone, **more: stack.enter_context(serving(Vllm(root, **more)))


def engine(*servers: Vllm, dtype: str = "float32") -> Any:
    """The engine of a run that names these servers, for the first of them."""
    evaluation = Evaluation(endpoints=tuple(each.url for each in servers))
    return make_engine(EngineSettings("vllm 0.32.0", dtype, 128, evaluation, endpoint=servers[0].url), Path())


def test_cells_are_swapped_into_a_server_of_others_one_after_another(olmoe: dict[str, Cell], start: Start) -> None:
    server = start()
    ours = engine(server)
    assert isinstance(ours, SwappedEndpoint)
    for number, name in enumerate(ORDER):
        loaded = ours.load(olmoe[name].model, olmoe[name].canary)
        ours.confirm()
        assert (loaded.how, loaded.difference < 1e-5) == ("swap" if number else "start", True)
    assert ours.lm().model == "their-name"


def test_a_server_that_was_left_with_a_cell_in_it_serves_the_next_run_right(
    olmoe: dict[str, Cell], start: Start
) -> None:
    server = start()
    engine(server).load(olmoe["all"].model, olmoe["all"].canary)
    assert server.differs
    assert engine(server).load(olmoe["base"].model, olmoe["base"].canary).difference < 1e-5
    server.differs = None  # as after a swap that was cut off
    assert engine(server).load(olmoe["experts"].model, olmoe["experts"].canary).difference < 1e-5


def test_another_client_that_swaps_meanwhile_is_found_out_and_what_comes_after_is_right(
    olmoe: dict[str, Cell], start: Start
) -> None:
    server = start()
    ours, theirs = engine(server), engine(server)
    ours.load(olmoe["experts"].model, olmoe["experts"].canary)
    theirs.load(olmoe["others"].model, olmoe["others"].canary)
    with pytest.raises(UserError, match="another client swapped weights into"):
        ours.confirm()
    theirs.load(olmoe["all"].model, olmoe["all"].canary)
    assert ours.load(olmoe["experts"].model, olmoe["experts"].canary).difference < 1e-5
    ours.confirm()


def test_a_server_that_was_started_anew_serves_the_next_cell_right(olmoe: dict[str, Cell], start: Start) -> None:
    server = start()
    ours = engine(server)
    ours.load(olmoe["experts"].model, olmoe["experts"].canary)
    server.start()
    with pytest.raises(UserError, match="or it was started anew, while it was asked"):
        ours.confirm()
    ours.load(olmoe["others"].model, olmoe["others"].canary)
    server.start()
    loaded = ours.load(olmoe["all"].model, olmoe["all"].canary)
    assert (loaded.how, loaded.difference < 1e-5) == ("restart", True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"loses_swaps": True}, "does not compute what .* computed when it was trained"),
        ({"off": 0.01}, "differ by 0.01, 0.001 allowed"),
        ({"off": float("nan")}, "does not compute what"),
        ({"says": {"/collective_rpc": (500, "FileNotFoundError: changed")}}, "serves .* and cannot be made to serve"),
        ({"says": {"/v1/completions": (500, "out of memory")}}, r"failed at /v1/completions \(500\): out of memory"),
        ({"dtype": "bfloat16"}, "computes in bfloat16 and the suite in float32: start it with --dtype float32"),
    ],
)
def test_a_server_that_serves_anything_else_is_one_sentence(
    olmoe: dict[str, Cell], start: Start, wrong: dict[str, Any], said: str
) -> None:
    server = start()
    for name, value in wrong.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=said) as error:
        engine(server).load(olmoe["all"].model, olmoe["all"].canary)
    assert "\n" not in str(error.value)


def test_a_server_without_the_extension_serves_what_it_was_started_on_and_nothing_else(
    olmoe: dict[str, Cell], start: Start, tmp_path: Path
) -> None:
    with olmoe["experts"].model.whole() as merged:
        copytree(merged, tmp_path / "merged")
    base, theirs = start(extension=False), start(tmp_path / "merged", extension=False)
    ours = engine(base, theirs)
    assert isinstance(ours, FixedEndpoints)
    for name, server in (("base", base), ("experts", theirs), ("base", base)):
        assert ours.load(olmoe[name].model, olmoe[name].canary).difference < 1e-5
        ours.confirm()
        assert ours.lm().base_url.startswith(server.url)
    with pytest.raises(UserError, match=r"and cannot be made to serve .*; start it with our worker extension"):
        ours.load(olmoe["all"].model, olmoe["all"].canary)


def test_a_merged_checkpoint_is_told_from_another_by_its_tensors_where_the_canary_could_not(
    olmoe: dict[str, Cell], start: Start
) -> None:
    server, base = start(extension=False, dtype="bfloat16"), olmoe["base"]
    ours = engine(server, dtype="bfloat16")
    assert ours.load(base.model, base.canary).difference < 1e-5
    with pytest.raises(UserError, match="cannot be made to serve"):
        ours.load(olmoe["experts"].model, base.canary)  # the very log-probabilities of what is served


def adapter(folder: Path, base: Path, **more: Any) -> Model:
    """A training that left a LoRA adapter with this configuration."""
    trained = training(folder, {})
    told = {"target_modules": ["q_proj", "v_proj"], "peft_type": "LORA"} | more
    (trained / ADAPTER / "adapter_config.json").write_text(json.dumps(told))
    return Model(base, (trained,), folder / "scratch")


def test_an_adapter_is_handed_over_by_its_path_and_taken_back(
    olmoe: dict[str, Cell], start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, base = start(extension=False, takes_adapters=True), olmoe["base"]
    monkeypatch.setattr("esft_bench.harness.serving.external.holds", lambda *_: False)
    ours = engine(server)
    model = adapter(tmp_path / "lora", base.model.backbone)
    ours.load(model, base.canary)
    (name,) = server.adapters
    assert server.adapters[name] == (tmp_path / "lora" / ADAPTER).resolve()
    assert ours.lm().model == name
    server.off = 1.0
    with pytest.raises(UserError, match="does not compute what"):
        ours.load(model, base.canary)
    assert server.adapters == {}


@pytest.mark.parametrize(
    ("layers", "taken"),
    [(None, True), (["q_proj", "v_proj"], True), (["q_proj"], False), ("none said", False)],
)
def test_where_the_canary_is_too_coarse_a_server_must_say_that_it_leaves_no_layer_out(
    olmoe: dict[str, Cell], start: Start, tmp_path: Path, layers: Any, taken: bool
) -> None:
    base = olmoe["base"]
    server = start(extension=False, takes_adapters=True)
    if layers != "none said":
        config = {"dtype": "torch.bfloat16", "generation_config": "vllm"}
        told = {"vllm_config": {"model_config": config, "lora_config": {"target_modules": layers}}}
        server.says["/server_info"] = 200, json.dumps(told)
    ours = engine(server, dtype="bfloat16")
    name = {"target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]}
    seen = ours._endpoints[0].look()
    model = adapter(tmp_path / "lora", base.model.backbone, **name)
    if taken:
        ours._hand_over(ours._endpoints[0], seen, model)
    else:
        with pytest.raises(UserError, match="cannot be made to serve"):
            ours._hand_over(ours._endpoints[0], seen, model)
    assert len(server.adapters) == taken


@pytest.mark.parametrize(
    "more",
    [{"target_parameters": ["experts.down_proj"]}, {"modules_to_save": ["gate"]}, {"target_modules": ["kv_b_proj"]}],
)
def test_an_adapter_of_which_a_server_would_leave_something_out_is_not_handed_over(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    assert plain_adapter(adapter(tmp_path / "plain", tmp_path)) is not None
    assert plain_adapter(adapter(tmp_path / "other", tmp_path, **more)) is None


def test_no_key_reaches_what_is_said(olmoe: dict[str, Cell], start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(key="sk-a-key-of-others")
    with pytest.raises(UserError, match="wants a key, and VLLM_API_KEY in the environment is none"):
        engine(server)
    monkeypatch.setitem(os.environ, "VLLM_API_KEY", "sk-a-key-of-others")
    ours = engine(server)
    ours.load(olmoe["base"].model, olmoe["base"].canary)
    assert ours.lm().header["Authorization"] == "Bearer sk-a-key-of-others"
    server.says["/v1/completions"] = 400, '{"error": {"message": "what is ECHO?"}}'
    with pytest.raises(UserError, match=r"what is Bearer \*\*\*\?") as error:
        ours.load(olmoe["all"].model, olmoe["all"].canary)
    assert "sk-a" not in str(error.value)
    assert "sk-a" not in repr(ours) + repr(vars(ours))
