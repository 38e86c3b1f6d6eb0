"""One training over nodes that have nothing but a wire in common: network namespaces of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")

from tests.harness.several import AGAIN, TRAINED, check_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
NAMES = [f"esft-{os.getpid()}-{number}" for number in range(4)]
"""Namespaces: the first is the head's, with the switch that all are wired to, and the driver's."""
ADDRESSES = [f"10.213.0.{number}" for number in range(1, 5)]
HEAD = f"{ADDRESSES[0]}:6399"
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 1000}
SOON |= {"health_check_failure_threshold": 4, "gcs_rpc_server_reconnect_timeout_s": 15}
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "RAY_AUTH_MODE": "disabled"}
ENVIRONMENT |= {f"RAY_{name}": str(value) for name, value in SOON.items()}
Start = Callable[..., subprocess.Popen[str]]


def ip(command: str) -> str:
    done = subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True, timeout=20)
    return done.stdout


def wire() -> None:
    """Make network namespaces that reach each other over a switch."""
    for name in NAMES:
        ip(f"netns add {name}")
        ip(f"-n {name} link set lo up")
    ip(f"-n {NAMES[0]} link add wire type bridge")
    for number, name in enumerate(NAMES[1:], 1):
        ip(f"link add end{number} netns {NAMES[0]} type veth peer name wire netns {name}")
        ip(f"-n {NAMES[0]} link set end{number} master wire up")
    for name, address in zip(NAMES, ADDRESSES, strict=True):
        ip(f"-n {name} address add {address}/24 dev wire")
        ip(f"-n {name} link set wire up")


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(number, module, …)` begins a process in one of the networks; what is in these ends with the test."""
    begun: list[subprocess.Popen[str]] = []
    try:
        try:
            wire()
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"network namespaces that reach each other cannot be made here: {error}")

        def started(number: int, *command: str, **more: Any) -> subprocess.Popen[str]:
            inside = ["ip", "netns", "exec", NAMES[number], sys.executable, "-m", *command]
            begun.append(subprocess.Popen(inside, env=os.environ | ENVIRONMENT, text=True, **more))
            return begun[-1]

        yield started
    finally:
        for name in NAMES:
            with suppress(OSError, subprocess.SubprocessError):
                for pid in map(int, ip(f"netns pids {name}").split()):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                ip(f"netns delete {name}")
        for process in begun:
            process.wait()


def drive(start: Start, nodes: int, *told: str) -> subprocess.Popen[str]:
    """Start a head without accelerators, then so many nodes with one each, and a driver."""
    node = ["ray.scripts.scripts", "start", "--disable-usage-stats", "--object-store-memory", "80000000"]
    head = ["--head", "--port", HEAD.split(":")[1], "--num-cpus", "0", "--include-dashboard", "false"]
    joins = ["--num-cpus", "1", "--num-gpus", "1", "--address", HEAD]
    for number in range(nodes + 1):
        place = ["--node-ip-address", ADDRESSES[number], *(joins if number else head)]
        assert start(number, *node, *place, stdout=subprocess.DEVNULL).wait(300) == 0
    return start(0, "tests.harness.several", HEAD, *told, stdout=subprocess.PIPE)


def check_ends_well(driver: subprocess.Popen[str], folder: Path, *methods: str) -> None:
    """That a driver's training came to what one process comes to."""
    said, _ = driver.communicate(timeout=600)
    assert any(line.startswith("{} ") for line in said.splitlines()), said  # Ray has its word, too
    assert "'machine': 1, 'rank': 1" in said
    (trained,) = (folder / "store").rglob(TRAINED)
    for method in methods:
        check_weights(trained, method)


def test_nodes_that_reach_each_other_by_their_addresses_alone_train_together(start: Start, tmp_path: Path) -> None:
    check_ends_well(drive(start, 2, str(tmp_path), ""), tmp_path, "fft", "esft-token")


def test_a_training_of_which_a_node_is_cut_off_is_begun_again_on_others(start: Start, tmp_path: Path) -> None:
    driver = drive(start, 3, str(tmp_path), "waits")
    deadline = time.monotonic() + 600
    while len(waits := sorted(tmp_path.rglob("*.waits"))) < 2:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first = [psutil.Process(int(file.read_text())) for file in waits]
    (waits[0].parent / AGAIN).touch()
    cut = ip(f"netns identify {first[1].pid}").strip()
    ip(f"-n {cut} link set wire down")
    check_ends_well(driver, tmp_path, "esft-token")
    assert not first[0].is_running()  # the one that is cut off ends when Ray gives up there
