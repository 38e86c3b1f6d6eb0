import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from esft_bench.harness.serving import shared_memory
from esft_bench.harness.serving.engines import FLOAT32_TOLERANCE, TransformersEngine, VllmEngine
from esft_bench.harness.serving.needs import model_config, takes_one_core
from esft_bench.harness.serving.server import (
    Settings,
    VllmServer,
    arguments,
    choose_port,
    environment,
    first_error,
)
from esft_bench.spec.errors import UserError
from tests.harness.conftest import Checkpoint, untrained
from tests.harness.test_temporary import temporary_folder

MLA = '{"kv_lora_rank": 512, "qk_rope_head_dim": 64, "max_position_embeddings": 1024, "hidden_size": 2048}'
PLAIN = '{"max_position_embeddings": 4096, "hidden_size": 64}'


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_port_in_use_is_one_clear_sentence(checkpoints: list[Checkpoint], tmp_path: Path, port_in_use: int) -> None:
    engine = VllmEngine(tmp_path, Settings(port=port_in_use))
    with pytest.raises(UserError, match=f"port {port_in_use} is in use"):
        engine.load(checkpoints[0].model, checkpoints[0].canary)


def test_a_free_port_is_chosen_where_none_is_given() -> None:
    assert choose_port(None) > 1023


def test_the_configuration_decides_what_mla_needs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(MLA)
    assert "-rotary_embedding" in " ".join(arguments(tmp_path, 1, Settings(), on_cpu=True))
    assert "-rotary_embedding" not in " ".join(arguments(tmp_path, 1, Settings(), on_cpu=False))
    assert "VLLM_MLA_DISABLE" not in environment(tmp_path, Settings(), on_cpu=True)
    (tmp_path / "config.json").write_text(MLA.replace("512", "64"))
    assert environment(tmp_path, Settings(), on_cpu=True)["VLLM_MLA_DISABLE"] == "1"
    (tmp_path / "config.json").write_text(PLAIN)
    assert "-rotary_embedding" not in " ".join(arguments(tmp_path, 1, Settings(), on_cpu=True))
    assert "VLLM_MLA_DISABLE" not in environment(tmp_path, Settings(), on_cpu=True)


@pytest.mark.parametrize(("width", "alone"), [(64, True), (512, True), (2048, False)])
def test_a_small_models_server_takes_one_core_of_a_machine_without_a_gpu(
    tmp_path: Path, width: int, alone: bool
) -> None:
    (tmp_path / "config.json").write_text(PLAIN.replace("64", str(width)))
    assert takes_one_core(model_config(tmp_path)) is alone
    assert (environment(tmp_path, Settings(), on_cpu=True)["OMP_NUM_THREADS"] == "1") is (alone or os.cpu_count() == 1)


def test_the_server_is_offered_to_this_machine_only(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(PLAIN)
    command = arguments(tmp_path, 1, Settings(), on_cpu=True)
    assert command[command.index("--host") + 1] == "127.0.0.1"


KEYS = (
    "OPENAI_API_KEY",
    "HF_TOKEN",
    "VLLM_API_KEY",
    "JUDGE",
    "MY_PASSPHRASE",
    "AWS_SESSION",
    "CUDA_TOKEN",
    "https_proxy",
)


@pytest.mark.parametrize("name", KEYS)
def test_no_key_reaches_the_server_under_whatever_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "config.json").write_text(PLAIN)
    monkeypatch.setenv(name, "secret")
    assert "secret" not in environment(tmp_path, Settings(), on_cpu=True).values()


@pytest.mark.parametrize(
    "name", ["PATH", "CUDA_VISIBLE_DEVICES", "HF_HOME", "NCCL_DEBUG", "VLLM_LOGGING_LEVEL", "LC_ALL"]
)
def test_where_things_are_and_how_the_machine_computes_reaches_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "config.json").write_text(PLAIN)
    monkeypatch.setenv(name, "a value")
    assert environment(tmp_path, Settings(), on_cpu=True)[name] == "a value"


SEGMENT = (
    "from multiprocessing import resource_tracker, shared_memory; import time;"
    "memory = shared_memory.SharedMemory(create=True, size=4096);"
    "resource_tracker.unregister(memory._name, 'shared_memory');"
    "print(memory._name, flush=True);"
)


def test_the_shared_memory_of_a_process_group_is_found_and_removed_and_no_others() -> None:
    command = [sys.executable, "-c", SEGMENT + "time.sleep(60)"]
    ours, other = (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) for _ in range(2)
    )
    assert ours.stdout
    assert other.stdout
    mine, theirs = (Path("/dev/shm" + process.stdout.readline().strip()) for process in (ours, other))  # type: ignore[union-attr]
    try:
        assert shared_memory.of_group(ours.pid) == {mine}
        shared_memory.remove(shared_memory.of_group(ours.pid))
        assert (mine.exists(), theirs.exists()) == (False, True)
    finally:
        for process in (ours, other):
            process.kill()
            process.communicate()
        theirs.unlink()


def test_a_folder_without_a_model_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Hugging Face checkpoint"):
        arguments(tmp_path, 1, Settings(), on_cpu=True)


def test_the_first_error_of_a_log_is_found_without_decoration(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "(EngineCore pid=7) INFO 11-22 09:04:38 [core.py:11] starting\n"
        "(EngineCore pid=7) ERROR 11-22 09:04:39 [core.py:15] ValueError: no room\n"
        "(APIServer pid=3) RuntimeError: Engine core initialization failed. See root cause above.\nbye\n"
    )
    assert first_error(log) == "ValueError: no room"


def test_the_server_ends_when_its_starter_is_killed_with_its_memory_and_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that hangs."""
    temporary = temporary_folder(monkeypatch, tmp_path)
    (temporary.path / "socket").touch()
    for name, value in temporary.environment().items():
        monkeypatch.setenv(name, value)
    child = "import os, signal, esft_bench.harness.serving.launch as launch;"
    child += f"launch._guarded(); {SEGMENT} print(os.getpid(), flush=True);"
    child += "os.kill(os.getpid(), signal.SIGSTOP)"
    starter = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, start_new_session=True);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    guard, segment = int(process.stdout.readline()), Path("/dev/shm" + process.stdout.readline().strip())
    server = int(process.stdout.readline())
    assert segment.exists()
    time.sleep(1)
    assert not _gone(guard, seconds=0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _gone(guard, seconds=100)
    assert _gone(server, seconds=100)
    assert not segment.exists()
    assert not temporary.path.exists()


def _gone(pid: int, seconds: float) -> bool:
    """Whether a process ends in time. Where nobody reaps orphans it stays as a zombie, which counts."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_transformers_serves_what_the_canary_says(checkpoints: list[Checkpoint]) -> None:
    engine = TransformersEngine()
    for checkpoint, how in zip(checkpoints, ("start", "swap", "swap"), strict=True):
        loaded = engine.load(checkpoint.model, checkpoint.canary)
        assert (loaded.how, loaded.difference < 1e-5) == (how, True)
    engine.close()


def test_a_checkpoint_that_is_not_the_trained_model_is_refused(checkpoints: list[Checkpoint]) -> None:
    with pytest.raises(UserError, match="differ by"):
        TransformersEngine().load(checkpoints[0].model, checkpoints[1].canary)


@pytest.mark.slow
def test_one_server_serves_one_checkpoint_after_another(engine: VllmEngine, checkpoints: list[Checkpoint]) -> None:
    first, second, third = checkpoints
    engine.load(first.model, first.canary)
    for checkpoint in (second, third, first):
        loaded = engine.load(checkpoint.model, checkpoint.canary)
        assert loaded.how == "swap"
        assert loaded.difference < 1e-4


@pytest.mark.slow
def test_a_swap_that_did_not_happen_is_mended_by_a_restart(
    engine: VllmEngine, checkpoints: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = checkpoints
    engine.load(first.model, first.canary)
    with monkeypatch.context() as sabotage:
        sabotage.setattr(VllmServer, "swap", lambda *_: None)
        loaded = engine.load(second.model, second.canary)
    assert loaded.how == "restart"
    assert loaded.difference < FLOAT32_TOLERANCE


@pytest.mark.slow
def test_a_server_that_died_is_started_again(engine: VllmEngine, checkpoints: list[Checkpoint]) -> None:
    first, second, _ = checkpoints
    engine.load(first.model, first.canary)
    assert engine._server
    left = engine._server._temporary.path
    assert any(path.is_socket() for path in left.rglob("*"))
    os.killpg(engine._server._process.pid, signal.SIGKILL)
    loaded = engine.load(second.model, second.canary)
    assert not left.exists()
    assert loaded.how in ("start", "restart")  # its death is noticed before the swap or by it
    assert loaded.difference < FLOAT32_TOLERANCE


@pytest.mark.slow
def test_a_server_that_dies_in_mid_swap_is_started_again_and_the_next_cell_is_right(
    engine: VllmEngine, checkpoints: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = checkpoints
    engine.load(first.model, first.canary)

    def die(server: VllmServer, path: str, body: dict[str, Any] | None = None) -> Any:
        if path == "/collective_rpc":
            os.killpg(server._process.pid, signal.SIGKILL)
        return post(server, path, body)

    post = VllmServer.post
    with monkeypatch.context() as sabotage:
        sabotage.setattr(VllmServer, "post", die)
        loaded = engine.load(second.model, second.canary)
    assert (loaded.how, loaded.difference < 1e-4) == ("restart", True)
    after = engine.load(third.model, third.canary)
    assert (after.how, after.difference < 1e-4) == ("swap", True)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(checkpoints: list[Checkpoint], tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    broken = copytree(checkpoints[0].folder, tmp_path / "broken")
    config = (broken / "config.json").read_text()
    (broken / "config.json").write_text(config.replace("DeepseekV2ForCausalLM", "NoSuchModel"))
    with pytest.raises(UserError, match=r"ended while starting: .*NoSuchModel"):
        VllmEngine(tmp_path / "logs").load(untrained(broken), checkpoints[0].canary)
