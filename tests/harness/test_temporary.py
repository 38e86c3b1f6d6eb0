"""What servers leave in their temporary folders."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from esft_bench.harness.serving.temporary import Temporary


def temporary_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Temporary:
    """A server's temporary folder, made where nobody else makes any."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return Temporary()


def test_what_killed_servers_left_goes_when_the_next_one_starts_and_nothing_of_a_living_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = temporary_folder(monkeypatch, tmp_path)
    (left.path / "socket").touch()
    server = subprocess.Popen(["sleep", "600"], pass_fds=[left.handle])
    os.close(left.handle)  # as its starter ends
    temporary_folder(monkeypatch, tmp_path).close()
    assert (left.path / "socket").exists()
    server.kill()
    server.wait()
    temporary_folder(monkeypatch, tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_a_server_keeps_torchs_compiled_code_where_it_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it where it was asked for it
    told = temporary_folder(monkeypatch, tmp_path).environment()
    assert told["VLLM_RPC_BASE_PATH"] == told["TMPDIR"]
    assert Path(told["TORCHINDUCTOR_CACHE_DIR"]) == tmp_path / f"torchinductor_{os.getuid()}"
