"""What ends a run before its end: a stop from outside, a port in use, a full disk."""

import signal
import socket
import subprocess
import time

import psutil
import pytest

from tests.harness.runs import artifacts, command, finish


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_how_to_go_on_and_leaves_no_process(tmp_path, how):
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command(tmp_path),
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    work = tmp_path / "runs" / ".store" / ".work"
    while not list(work.glob("*")):
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    _, complaint = process.communicate(timeout=280)
    assert process.returncode == 130
    assert "The same command goes on where it was." in complaint
    assert "Traceback" not in complaint
    _, alive = psutil.wait_procs(children, timeout=100)
    assert not alive


@pytest.mark.slow
def test_a_port_in_use_is_refused_before_anything_is_trained(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = finish(command(tmp_path, "vllm", f"--set=evaluation.port={taken.getsockname()[1]}"))
    assert done.returncode == 2
    assert "is in use" in done.stderr
    assert not artifacts(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 12 MB: room for what ESFT leaves, not for the 16 MB of full fine-tuning's adapter."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_sentence_and_loses_nothing_that_was_finished(small_disk):
    first = finish(command(small_disk, "transformers", "--only", "method=esft-token", "--workers", "1"))
    assert first.returncode == 0  # nothing is merged on disk to be tested
    finished = artifacts(small_disk)
    assert any(name.startswith("train/") for name in finished)
    second = finish(command(small_disk, "transformers", "--only", "method=fft"))
    assert second.returncode == 2
    assert "No disk space left" in second.stderr
    assert "Traceback" not in second.stderr
    assert artifacts(small_disk) == finished
