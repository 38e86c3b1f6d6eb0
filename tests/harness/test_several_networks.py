"""Nodes that have nothing but a wire in common, and one that is cut off: network namespaces of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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
SOON |= {"grpc_client_keepalive_timeout_ms": 10000}
AGENTS = ("ray::Dashboard", "ray::RuntimeEnv")
"""Processes of Ray that stay where a node gave up; they hold nothing."""
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "RAY_AUTH_MODE": "disabled"}
ENVIRONMENT |= {f"RAY_{name}": str(value) for name, value in SOON.items()}


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


class Networks:
    """A Ray head, and the driver's place, in the first network; nodes in the others, as they `join`."""

    def __init__(self) -> None:
        self._begun: list[subprocess.Popen[str]] = []

    def begin(self) -> None:
        """Lay the wires, and start the head."""
        wire()
        self._node(0, "--head", "--port", HEAD.split(":")[1], "--num-cpus", "0", "--include-dashboard", "false")

    def start(self, number: int, *command: str, **more: Any) -> subprocess.Popen[str]:
        """Begin a process in one of the networks."""
        inside = ["ip", "netns", "exec", NAMES[number], sys.executable, "-m", *command]
        self._begun.append(subprocess.Popen(inside, env=os.environ | ENVIRONMENT, text=True, **more))
        return self._begun[-1]

    def _node(self, number: int, *place: str) -> None:
        node = ["ray.scripts.scripts", "start", "--disable-usage-stats", "--object-store-memory", "80000000"]
        node += ["--node-ip-address", ADDRESSES[number], *place]
        assert self.start(number, *node, stdout=subprocess.DEVNULL).wait(300) == 0

    def join(self, number: int, size: int = 1) -> None:
        """Have a node with so many accelerators in a network, where none is."""
        if not self.workers(number):
            self.clear(number)
            ip(f"-n {NAMES[number]} link set wire up")
            self._node(number, "--num-cpus", str(size), "--num-gpus", str(size), "--address", HEAD)

    def drive(self, *told: str) -> subprocess.Popen[str]:
        """Begin a driver."""
        return self.start(0, "tests.harness.several", HEAD, *told, stdout=subprocess.PIPE)

    def cut_off(self, number: int) -> None:
        """Take the wire out."""
        ip(f"-n {NAMES[number]} link set wire down")

    def pids(self, number: int) -> list[int]:
        """What runs in a network."""
        return [int(pid) for pid in ip(f"netns pids {NAMES[number]}").split()]

    def workers(self, number: int) -> list[str]:
        """Ray's processes there that run something of ours, by their names, and the one that starts them."""
        found: list[str] = []
        for pid in self.pids(number):
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid).name())
        return [name for name in found if name.startswith(("ray::", "raylet")) and not name.startswith(AGENTS)]

    def clear(self, number: int) -> None:
        """Kill what is in a network."""
        for pid in self.pids(number):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End all that is in the networks."""
        for number, name in enumerate(NAMES):
            with suppress(OSError, subprocess.SubprocessError):
                self.clear(number)
                ip(f"netns delete {name}")
        for process in self._begun:
            process.wait()


@pytest.fixture(scope="module")
def networks() -> Iterator[Networks]:
    made = Networks()
    try:
        try:
            made.begin()
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"network namespaces that reach each other cannot be made here: {error}")
        yield made
    finally:
        made.close()


def written(driver: subprocess.Popen[str], folder: Path, pattern: str, count: int) -> list[psutil.Process]:
    """The processes that so many files name, once they are there."""
    deadline = time.monotonic() + 600
    while len(files := sorted(file for file in folder.rglob(pattern) if file.stat().st_size)) < count:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return [psutil.Process(int(file.read_text())) for file in files]


def has_ended(process: psutil.Process) -> bool:
    """Whether a process is over; where nobody reaps orphans it stays as a zombie."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def check_ended(driver: subprocess.Popen[str]) -> str:
    """What a driver said whose steps all ended well."""
    said, _ = driver.communicate(timeout=600)
    assert any(line.startswith("{} ") for line in said.splitlines()), said  # Ray has its word, too
    return said


def test_steps_on_a_node_that_is_cut_off_begin_again_elsewhere_and_end_there(
    networks: Networks, tmp_path: Path
) -> None:
    """A training and an engine's step; the store is seen from everywhere."""
    networks.join(3, size=2)
    driver = networks.drive(str(tmp_path), "hangs")
    first = written(driver, tmp_path, "begun", 2)
    networks.join(1)
    networks.join(2)
    networks.cut_off(3)
    said = check_ended(driver)
    assert said.count("'again': True") == 2
    assert all(has_ended(process) for process in first)
    log = (tmp_path / "esft-bench.log").read_text()
    assert log.count("it goes on elsewhere") == 2
    assert "its node is gone" in log
    deadline = time.monotonic() + 300
    while left := networks.workers(3):  # nobody can tell them to end
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def test_a_training_of_which_a_node_is_cut_off_is_begun_again_on_others(networks: Networks, tmp_path: Path) -> None:
    """The nodes reach each other by their addresses alone, and come to what one process comes to."""
    for number in (1, 2, 3):
        networks.join(number)
    driver = networks.drive(str(tmp_path), "waits")
    first = written(driver, tmp_path, "*.waits", 2)
    (next(tmp_path.rglob("*.waits")).parent / AGAIN).touch()
    networks.cut_off(NAMES.index(ip(f"netns identify {first[1].pid}").strip()))
    assert "'machine': 1, 'rank': 1" in check_ended(driver)
    (trained,) = (tmp_path / "store").rglob(TRAINED)
    check_weights(trained, "esft-token")
    assert has_ended(first[0])  # the one that is cut off ends when Ray gives up there
