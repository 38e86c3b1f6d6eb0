"""Servers of others, before anything is computed: what they say of themselves, and what is refused."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from esft_bench.harness.commands import endpoints as commands
from esft_bench.harness.commands.endpoints import check_endpoints, remarks, version_of
from esft_bench.harness.doctor import diagnose
from esft_bench.harness.serving.endpoint import Endpoint
from esft_bench.harness.store.artifacts import Store
from esft_bench.spec.errors import UserError
from esft_bench.spec.sections import Evaluation
from esft_bench.spec.suite import Suite
from esft_bench.tasks.mini import BACKBONE
from tests.harness.conftest import Checkpoint
from tests.harness.plans import prepared
from tests.harness.runs import SUITE
from tests.harness.vllm_server import Vllm, serving

Start = Callable[..., Vllm]


@pytest.fixture
def start(checkpoints: list[Checkpoint]) -> Iterator[Start]:
    """Starts a server on a checkpoint that is none of the suite's, or another folder."""
    with ExitStack() as stack:
        yield lambda root=checkpoints[1].folder, **more: stack.enter_context(serving(Vllm(root, **more)))


def suite_text(*servers: Vllm | str) -> str:
    urls = ", ".join(each if isinstance(each, str) else each.url for each in servers)
    return SUITE.replace("engine: ENGINE", f"endpoints: [{urls}]")


def silent() -> str:
    """An address that nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_what_a_server_says_of_itself_is_read(start: Start, tmp_path: Path) -> None:
    (token := tmp_path / "token").write_text("seen")
    server = start(extension=True, takes_adapters=True, differs=[])
    seen = Endpoint(server.url, "NONE").look(token)
    assert (seen.version, seen.model, seen.max_length) == ("0.32.0", "their-name", 256)
    assert (seen.swaps, seen.adapters, seen.dtype, seen.sees) == (True, True, "float32", True)
    server.extension = server.takes_adapters = False
    seen = Endpoint(server.url, "NONE").look(token)
    assert (seen.swaps, seen.adapters, seen.dtype, seen.sees) == (False, False, "", None)


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ({"/version": (200, "<html>welcome</html>")}, "is no vLLM server: it says no version at /version"),
        ({"/version": (404, "")}, "is no vLLM server"),
        ({"/version": (200, '{"version": "mine"}')}, "is no vLLM server"),
        ({"/version": (200, '{"version": null}')}, "is no vLLM server"),
        ({"/v1/models": (200, '{"data": []}')}, "is no vLLM server: it says at /v1/models what vLLM does not"),
        ({"/v1/models": (200, '{"data": [{"id": "gpt"}]}')}, "is no vLLM server"),
        ({"/v1/models": (200, "[]")}, "is no vLLM server"),
        ({"/v1/models": (503, "upstream\nis gone")}, r"failed at /v1/models \(503\): upstream$"),
        ({"/version": (401, "")}, "wants a key, and NONE in the environment is none"),
    ],
)
def test_what_is_no_vllm_server_is_one_sentence(start: Start, says: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Endpoint(start(says=says).url, "NONE").look()


def test_a_server_that_does_not_answer_is_refused_when_a_suite_is_planned(tmp_path: Path) -> None:
    address = silent()
    with pytest.raises(UserError, match=rf"^evaluation.endpoints: {address} does not answer \(ConnectError\): start"):
        prepared(tmp_path, suite_text(address))


def test_a_run_can_be_looked_at_when_its_servers_are_gone(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(BACKBONE, max_length=512)
    text = suite_text(server)
    assert prepared(tmp_path, text).plan.engine.name == "vllm 0.32.0"
    monkeypatch.setattr(Endpoint, "version", lambda _: _gone())
    made = prepared(tmp_path, text)
    assert made.plan.engine.name == "vllm 0.32.0"


def _gone() -> None:
    from esft_bench.harness.serving.endpoint import SilentError

    raise SilentError("it is gone")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dtype": "bfloat16"}, "computes in bfloat16 and the suite in float32: start it with --dtype float32"),
        ({"max_length": 100}, "takes 100 tokens and the suite asks with 512: start it with --max-model-len 512"),
        ({"generation_config": "auto"}, ".* start it with --generation-config vllm"),
        ({"key": "sk-of-others"}, "wants a key, and VLLM_API_KEY in the environment is none"),
    ],
)
def test_a_server_that_a_suite_cannot_ask_is_refused_and_named(
    start: Start, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    server = start(BACKBONE, **({"max_length": 512} | wrong))
    server.says["/version"] = 200, '{"version": "0.32.0"}'  # which vLLM says to everybody
    made = prepared(tmp_path, suite_text(server))
    with pytest.raises(UserError, match=f"^evaluation.endpoints: {server.url} {said}"):
        check_endpoints(made.plan, made.store)
    assert not list((made.store.root / ".work" / "endpoints").iterdir())


def test_a_server_of_another_model_is_refused_and_one_of_the_backbone_is_not(start: Start, tmp_path: Path) -> None:
    server, other = start(BACKBONE, max_length=512), start(max_length=512)
    made = prepared(tmp_path, suite_text(server))
    assert [each.url for each in check_endpoints(made.plan, made.store)] == [server.url]
    made = prepared(tmp_path, suite_text(server, other))
    with pytest.raises(UserError, match=f"{other.url} serves .*, which is not the suite's backbone: start it on"):
        check_endpoints(made.plan, made.store)


def test_servers_that_differ_are_refused(start: Start, tmp_path: Path) -> None:
    one, two = start(BACKBONE, max_length=512), start(BACKBONE, max_length=512, extension=False)
    made = prepared(tmp_path, suite_text(one, two))
    with pytest.raises(UserError, match="differ in vLLM's version or in the extension: start all alike"):
        check_endpoints(made.plan, made.store)
    two.version = "0.31.0"
    with pytest.raises(UserError, match=r"servers of one version of vLLM are wanted: .* has 0.32.0, .* has 0.31.0"):
        prepared(tmp_path, suite_text(one, two))


def test_servers_that_only_hold_what_they_were_started_on_are_told_of(start: Start, tmp_path: Path) -> None:
    server = start(BACKBONE, max_length=512, extension=False)
    made = prepared(tmp_path, suite_text(server))
    (said,) = remarks(check_endpoints(made.plan, made.store))
    assert "a cell that none of them holds fails" in said
    server.extension = True
    assert remarks(check_endpoints(made.plan, made.store)) == []


def test_the_doctor_names_each_server(start: Start, tmp_path: Path) -> None:
    server, address = start(BACKBONE), silent()
    suite = Suite.model_validate(
        {
            "name": "x",
            "tasks": ["mini-law"],
            "methods": {"base": {}},
            "evaluation": {"endpoints": [server.url, address]},
        }
    )
    found = [each for each in diagnose(suite, tmp_path) if each.what == "endpoint"]
    assert [each.good for each in found] == [True, False]
    assert "swaps models in" in found[0].found
    assert address in found[1].found


@pytest.mark.parametrize(
    "given",
    [
        {"endpoints": ["10.0.0.1:8000"]},
        {"endpoints": ["http://user:secret@host:8000"]},
        {"endpoints": ["http://host:8000", "http://host:8000/v1/"]},
        {"endpoints": ["http://host:8000"], "engine": "transformers"},
        {"endpoints": ["http://host:8000"], "port": 8000},
        {"endpoints": ["http://host:8000"], "tensor_parallel": 2},
        {"tensor_parallel": 2, "engine": "transformers"},
    ],
)
def test_what_fits_no_server_of_others_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Evaluation.model_validate(given)


def test_an_address_may_end_as_openais_clients_have_it() -> None:
    assert Evaluation(endpoints=("http://host:8000/v1/",)).endpoints == ("http://host:8000",)


def test_versions_are_asked_of_servers_once_each(start: Start, tmp_path: Path) -> None:
    server = start()
    suite = Suite.model_validate(
        {"name": "x", "tasks": ["mini-law"], "methods": {"base": {}}, "evaluation": {"endpoints": [server.url]}}
    )
    assert version_of(suite, Store(tmp_path)) == "0.32.0"
    assert server.asked == ["/version"]
    assert commands.NOTES in {path.name for path in tmp_path.iterdir()}
