"""A driver of its own for a matrix of toys: as a program, `drivers.py STORE CHAINS LAPSE FOLDER [MACHINE]`.

It prints a line when it starts and when it has finished. With MACHINE it takes itself to be on another machine, whose
processes nobody else can look up.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.step import Job, Parallelism, Step
from esft_bench.harness.store import leases
from esft_bench.harness.store.artifacts import Artifact, Store
from tests.harness.executors import Beside
from tests.harness.toys import Toy

SECONDS = 0.02
"""What a step takes."""


class Counted(Toy):
    """A toy that takes its time, and leaves a line in a file of its own for each time it is run."""

    def _counts(self, job: Job) -> None:
        with Path(self.told).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(SECONDS)


def matrix(folder: Path, chains: int) -> list[Step]:
    """The ends of chains of three steps, all of which rest on one."""
    first = Counted("counts", (), str(folder / "first"))
    ends: list[Step] = []
    for number in range(chains):
        middle = Counted("counts", (first,), str(folder / f"{number} middle"))
        ends.append(Counted("counts", (middle,), str(folder / f"{number} end")))
    return ends


class Silent:
    """Nobody is told."""

    def started(self, step: Step) -> None: ...

    def progressed(self, step: Step, done: int, total: int) -> None: ...

    def finished(self, step: Step, artifact: Artifact) -> None: ...

    def failed(self, step: Step, why: str) -> None: ...

    def noted(self, text: str) -> None: ...


def drive(store: Path, chains: int, lapse: float, folder: Path) -> Mapping[Step, str]:
    """Walk the matrix; returns what failed."""
    ends = matrix(folder, chains)
    graph = Graph(ends, Store(store, lapse))
    return Schedule(graph, Beside(), Silent(), Parallelism(), ends).run()


def started(store: Path, chains: int, lapse: float, folder: Path, machine: str = "") -> subprocess.Popen[str]:
    """A driver in a process of its own, which has begun."""
    told = [str(store), str(chains), str(lapse), str(folder), *([machine] if machine else [])]
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.drivers", *told], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout.readline() == "started\n"
    return program


if __name__ == "__main__":
    if len(sys.argv) > 5:
        leases.MACHINE = sys.argv[5]
    print("started", flush=True)
    assert not drive(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
    print("finished", flush=True)
