"""One training over two nodes that have nothing but a wire in common: network namespaces of this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from tests.harness.several import TRAINED, check_weights

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NAMES = [f"esft-{os.getpid()}-{number}" for number in (1, 2)]
ADDRESSES = ["10.213.0.1", "10.213.0.2"]
Start = Callable[..., subprocess.Popen[str]]


def wire() -> None:
    """Make two network namespaces, and a wire between them."""
    for name in NAMES:
        ip(f"netns add {name}")
        ip(f"-n {name} link set lo up")
    ip(f"link add v1 netns {NAMES[0]} type veth peer name v2 netns {NAMES[1]}")
    for name, end, address in zip(NAMES, ("v1", "v2"), ADDRESSES, strict=True):
        ip(f"-n {name} address add {address}/24 dev {end}")
        ip(f"-n {name} link set {end} up")


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, timeout=20)


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(number, command)` begins a process in one of two networks; all that it starts ends with the test."""
    begun: list[subprocess.Popen[str]] = []
    try:
        try:
            wire()
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"two network namespaces with a wire between them cannot be made here: {error}")

        def started(number: int, *command: str, **more: Any) -> subprocess.Popen[str]:
            environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "RAY_AUTH_MODE": "disabled"}
            inside = ["ip", "netns", "exec", NAMES[number], sys.executable, "-m", *command]
            begun.append(subprocess.Popen(inside, env=environment, text=True, **more))
            return begun[-1]

        yield started
    finally:
        for name in NAMES:
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in map(int, inside):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        for process in begun:
            process.wait()


def test_nodes_that_reach_each_other_by_their_addresses_alone_train_together(start: Start, tmp_path: Path) -> None:
    node = ["ray.scripts.scripts", "start", "--block", "--num-cpus", "1", "--num-gpus", "1", "--disable-usage-stats"]
    node += ["--object-store-memory", "80000000"]
    head = ["--head", "--node-ip-address", ADDRESSES[0], "--port", "6399", "--include-dashboard", "false"]
    start(0, *node, *head, stdout=subprocess.DEVNULL)
    address = f"{ADDRESSES[0]}:6399"
    start(1, *node, "--node-ip-address", ADDRESSES[1], "--address", address, stdout=subprocess.DEVNULL)
    driver = start(0, "tests.harness.several", address, str(tmp_path), "", stdout=subprocess.PIPE)
    said, _ = driver.communicate(timeout=280)
    assert said.startswith("{} "), said
    assert "'machine': 1, 'rank': 1" in said
    (trained,) = (tmp_path / "store").rglob(TRAINED)
    for method in ("fft", "esft-token"):
        check_weights(trained, method)
