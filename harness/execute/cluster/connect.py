"""Joining a cluster: one that is there, or one made of this machine's accelerators for as long as a run lasts."""

import atexit
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esft_bench.harness.execute.cluster.alive import HeadLostError
from esft_bench.harness.execute.cluster.room import Node
from esft_bench.spec.errors import UserError

HERE = "here"
"""A cluster of this machine alone, made for the run."""
CLUSTER = "ray"
"""The cluster that this machine belongs to."""
REMOTE = "ray://"
"""What the address of a cluster elsewhere begins with."""
ANSWERS_WITHIN = 10.0
"""Seconds that an address gets to answer."""
LOOKS_UP_WITHIN = 40.0
"""Seconds that it may take to find this machine's cluster: Ray's own command for it has to start."""

MODE = "RAY_AUTH_MODE"
"""Environment variable: whether a cluster asks for a token."""
ENDS_WITHIN = 10.0
"""Seconds in which a run whose cluster's head is gone writes down what it has."""

TRIES = 3
"""So often Ray is asked to serve a client: it forks what does so in a process with threads, which may fail."""

QUIET: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}


@contextmanager
def connected(where: str, cores: int, gpus: int) -> Iterator[None]:
    """Be a driver of a cluster: HERE (then with so many cores and accelerators), CLUSTER, or an address.

    Raises UserError, one sentence, where nobody answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if where == CLUSTER and (address := os.environ.get("RAY_ADDRESS", "")).startswith(REMOTE):
        where = address
    if where == HERE and "ray" not in sys.modules:
        # Ray listens on all interfaces, so it is to ask for a secret. It reads this where it is imported.
        os.environ |= {MODE: "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    elif where != HERE:
        _check_answer(where)
    import ray
    from ray._private import worker

    worker._worker_logs_enabled = False  # or else its nodes' complaints come to the terminal
    stop, end = signal.getsignal(signal.SIGTERM), ray.shutdown
    try:
        if where == HERE:
            _start(cores, gpus)
        else:
            _join(where)
        signal.signal(signal.SIGTERM, stop)  # Ray puts its own in place of the run's
        yield
    except HeadLostError:
        end = _end_soon
        raise
    except ConnectionError as error:  # Ray's client says so, or what it asked never comes back
        end = _end_soon
        raise HeadLostError(
            f"--on {where}: the connection to the Ray cluster is lost: see that it runs, or start it again; the same "
            "command goes on with what is finished."
        ) from error
    finally:
        end()
        signal.signal(signal.SIGTERM, stop)


def _end_soon() -> None:
    """Have this process end soon, whatever Ray still waits for of a head that is gone."""
    import ray

    atexit.unregister(ray.shutdown)
    leave = threading.Timer(ENDS_WITHIN, os._exit, (2,))
    leave.daemon = True
    leave.start()


def _has_token() -> bool:
    """Whether this machine has a token for Ray's clusters."""
    told = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return told or Path("~/.ray/auth_token").expanduser().exists()


def _start(cores: int, gpus: int) -> None:
    import ray

    ray.init("local", num_cpus=cores, num_gpus=gpus, include_dashboard=False, _node_ip_address="127.0.0.1", **QUIET)


def init(address: str, **told: Any) -> None:
    """`ray.init`, once more where Ray could not start its server for a client (it waits half a minute for that)."""
    import ray

    for left in reversed(range(TRIES)):
        try:
            ray.init(address, **told)
        except ConnectionAbortedError as error:
            if "client server failed" not in str(error) or not left:
                raise
        else:
            return


def _join(where: str) -> None:
    from ray.exceptions import AuthenticationError

    try:
        with warnings.catch_warnings(action="ignore"):
            init("auto" if where == CLUSTER else where, **QUIET)
    except (RuntimeError, AuthenticationError, ConnectionError, TimeoutError) as error:
        if why := _refusal(where, str(error)):
            raise UserError(why) from error
        if isinstance(error, RuntimeError):
            raise
        raise UserError(_nobody(where) if where == CLUSTER else _no_client(where)) from error


def _check_answer(where: str) -> None:
    """Refuse an address that nobody answers, or not as is needed; Ray itself would try for minutes."""
    if where == CLUSTER:
        _check_cluster()
        return
    host, _, port = where.removeprefix(REMOTE).rpartition(":")
    if not (where.startswith(REMOTE) and host and port.isdecimal()):
        raise UserError(f"--on {where}: give local, ray, or ray://HOST:PORT (Ray's client port, 10001 unless chosen).")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS_WITHIN).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(_nobody(where)) from error
    if _has_token():
        os.environ.setdefault(MODE, "token")


def _check_cluster() -> None:
    """The same of this machine's cluster; what this finds out of its token is then said in the environment.

    A driver that has one starts no actors in a cluster that has none, and one that has none is refused where it is.
    """
    found = f"{CLUSTER}, address {os.environ['RAY_ADDRESS']}" if os.environ.get("RAY_ADDRESS") else CLUSTER
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    told: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "timeout": LOOKS_UP_WITHIN}
    said = ""
    for mode in [os.environ[MODE]] if MODE in os.environ else ["disabled", *["token"] * _has_token()]:
        try:
            done = subprocess.run(command, env=os.environ | {MODE: mode}, **told)
        except subprocess.TimeoutExpired:
            raise UserError(_nobody(found)) from None
        if not done.returncode:
            os.environ[MODE] = mode
            return
        said = done.stderr
    raise UserError(_refusal(found, said) or _nobody(found))


def _refusal(where: str, said: str) -> str | None:
    """What Ray's own words on a cluster that it cannot join come to; None where they are none that are known."""
    if "uthentication" in said:
        return (
            f"--on {where}: that Ray cluster wants another token than this machine has: put the cluster's into "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token."
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    found = next((place for place, line in enumerate(lines) if "ersion mismatch" in line), None)
    if found is None:
        return None
    told = " ".join(lines[found:]).removeprefix("RuntimeError: ")
    return f"--on {where}: {told}"


def _no_client(where: str) -> str:
    """Ray's client waits in vain, whatever it is that it is not let in for."""
    return (
        f"--on {where}: what answers there lets no client of Ray in: give Ray's client port (10001 unless chosen), and "
        "the cluster's token, if it has one, in RAY_AUTH_TOKEN or ~/.ray/auth_token."
    )


def _nobody(where: str) -> str:
    return f"--on {where}: no Ray cluster answers there; start one with `ray start --head`, or leave --on out."


def nodes() -> list[Node]:
    """The nodes that are alive."""
    import ray

    return [
        Node(
            each["NodeID"],
            f"{each['NodeManagerHostname']} ({each['NodeManagerAddress']})",
            int(each["Resources"].get("CPU", 0)),
            int(each["Resources"].get("GPU", 0)),
        )
        for each in ray.nodes()
        if each["Alive"]
    ]
