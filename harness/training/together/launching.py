"""Starting the processes of a step, on this machine and on those beside it, by `accelerate launch` on each.

Those of several machines meet at the first one's address (torch's static rendezvous: names are not looked up, so none
need be known). Where one of them ends badly, on whichever machine, all are ended at once. All of them end when the
process that launched them does.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
import torch

from esft_bench.harness.training.together.machines import SHARDED, Crew, LostError
from esft_bench.harness.training.together.processes import MARK
from esft_bench.spec.errors import DivergedError, UserError
from esft_bench.spec.files import write_json
from esft_bench.spec.progress import Progress

FLAGS = "--multi_gpu --mixed_precision no --dynamo_backend no"
PROCESSES = "esft_bench.harness.training.together.processes"

ON_CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
"""Makes `--multi_gpu` mean processes on the CPU (gloo): with `--cpu` accelerate starts several through MPI only."""

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Environment variable: the network interface by which processes meet. gloo's own choice is the one that the machine's
name stands for, which often is none that others reach."""

WORD = 120.0
"""Seconds in which other machines must say what became of them, where processes here ended without a sentence."""


@dataclass(frozen=True)
class Place:
    """One machine's place among those that train together: the `rank`-th, which all meet at `address` and `port`.

    Attributes:
        processes: how many there are, on all of them.
        folder: the one that relative paths begin at.
        shared: what the environment of the first says of sharing a model.
    """

    processes: int
    machines: int = 1
    rank: int = 0
    address: str = ""
    port: int = 0
    folder: str = field(default_factory=os.getcwd)
    shared: str | None = field(default_factory=lambda: os.environ.get(SHARDED))


@dataclass(frozen=True)
class Said:
    """What the processes of a machine said, by its kind, and the code that their launcher ended with."""

    words: dict[str, list[Any]]
    code: int


def launch(
    function: str, arguments: dict[str, Any], crew: Crew, scratch: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Run `function` (`module:function`, called with arguments and progress) in a crew's processes; returns their
    results.

    `arguments` must be JSON; all machines see `scratch`. Raises UserError with a process's sentence,
    or where one was ended from outside; RuntimeError where one failed; LostError where a machine was lost.
    """
    # A name of its own: another machine may still see what was there under a name for a while.
    job, machines = scratch / f"job-{secrets.token_hex(4)}.json", crew.machines
    write_json(job, {"function": function, "arguments": arguments})
    first = Place(crew.processes)
    if machines.count > 1:
        first = Place(crew.processes, machines.count, 0, machines.address, _free_port(machines.address))
    parts = [partial(part, job, replace(first, rank=rank)) for rank in range(1, machines.count)]
    others = machines.begin(parts)
    try:
        with _Launched(job, first) as here:
            for other in others:
                other.add_done_callback(here.end_unless_well)
            said = here.said(progress)
        return _results([said, *_heard_of(others, said)], crew.processes)
    finally:
        machines.end()
        job.unlink(missing_ok=True)


def part(job: Path, place: Place) -> Said:
    """Run one machine's processes of a job that is launched elsewhere."""
    with _Launched(job, place) as here:
        return here.said(lambda step, steps: None)


class _Launched:
    """The launcher of this machine's processes."""

    def __init__(self, job: Path, place: Place) -> None:
        command = [sys.executable, "-m", *_launcher(place), PROCESSES, str(job)]
        pipe: Any = subprocess.PIPE
        self._process = subprocess.Popen(
            command, env=_environment(place), cwd=place.folder, stdin=pipe, stdout=pipe, text=True, errors="replace"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if any(error):
            self.end()
        self._process.__exit__(None, None, None)

    def said(self, progress: Progress) -> Said:
        """All that the processes say until they have ended; what is no word of theirs is printed."""
        words = defaultdict[str, list[Any]](list)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith(MARK):
                print(line, end="", flush=True)
                continue
            kind, payload = json.loads(line.removeprefix(MARK))
            if kind == "progress":
                progress(*payload)
            words[kind].append(payload)
        return Said(dict(words), self._process.wait())

    def end(self) -> None:
        """End the launcher and, as their input ends, its processes."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.stdin.close()

    def end_unless_well(self, other: Future[Said]) -> None:
        """End them where another machine's have ended badly."""
        if other.cancelled() or other.exception() or other.result().code:
            self.end()


def _launcher(place: Place) -> list[str]:
    """What comes before the processes' module on the command line."""
    told = ["--num_processes", str(place.processes), "--num_machines", str(place.machines)]
    told += ["--main_process_port", str(place.port)]
    if place.machines > 1:
        told += ["--machine_rank", str(place.rank), "--main_process_ip", place.address]
        told += ["--same_network", "--rdzv_backend", "static"]
    return ["esft_bench.harness.training.together.launcher", *FLAGS.split(), *told, "-m"]


def _environment(place: Place) -> dict[str, str]:
    """What the launcher and its processes find in their environment."""
    found = os.environ | ({} if torch.cuda.is_available() else ON_CPU)
    if place.shared is not None:
        found[SHARDED] = place.shared
    if place.machines > 1 and (interface := _interface_to(place.address)):
        found.setdefault(INTERFACE, interface)
    return found


def _interface_to(address: str) -> str | None:
    """The network interface by which this machine reaches an address, or which has it."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.connect((address, 9))  # nothing is sent
        own = there.getsockname()[0]
    return next((name for name, has in psutil.net_if_addrs().items() if own in {each.address for each in has}), None)


def _free_port(address: str) -> int:
    """A port of this machine's that nobody has."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as free:
        free.bind((address, 0))
        port: int = free.getsockname()[1]
        return port


def _heard_of(others: Sequence[Future[Said]], here: Said) -> list[Said]:
    """What other machines' processes said; where a sentence of this one's tells enough, nobody is waited for."""
    if "error" in here.words:
        return []
    late = wait(others, WORD if here.code else None).not_done
    over = [other for other in others if other not in late]
    lost = [error for other in over if isinstance(error := other.exception(), LostError)]
    heard = [other.result() for other in over if not isinstance(other.exception(), LostError)]
    if (lost or late) and not any("error" in said.words for said in heard):
        raise lost[0] if lost else LostError("another machine does not say what became of its processes")
    return heard


def _results(said: Sequence[Said], processes: int) -> list[dict[str, Any]]:
    """What all processes came to, or the error that they ended with."""
    for each in said:
        for diverged, sentence in each.words.get("error", []):
            raise (DivergedError if diverged else UserError)(sentence)
    if any("failed" in each.words for each in said):
        raise RuntimeError(f"its {processes} processes ended with code {max(each.code for each in said)}")
    done = [result for each in said for result in each.words.get("done", [])]
    if any(each.code for each in said) or len(done) != processes:
        raise UserError(
            f"One of the {processes} processes that train together was ended from outside, as one is that takes more "
            "memory than there is: free some, or start fewer with --processes, and run the same command again."
        )
    return done
