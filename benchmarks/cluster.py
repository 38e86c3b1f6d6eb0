"""What scheduling costs on a Ray cluster, and what is lost where its nodes and its driver are killed.

    python -m benchmarks.cluster                                        # 1000 cells × 20 tests of 50 ms on 8 nodes
    python -m benchmarks.cluster --cells 20 --node-kills 2 --driver-kills 1

Nodes of one core each are made of this machine, and the steps sleep. First an undisturbed walk: the cost of a step is
what a core spends on it beyond its 50 ms, once a tenth of the steps is over (Ray has started its processes then); the
bound is that of list scheduling, all work divided by the cores, and the longest step. Then the same with nodes (raylet
and all its children) and the driver killed at random moments, each followed by another one.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from tests.harness.nodes import add_node, cluster, kill, naps, walk

NAP = 0.05
LIMIT = 6 * 3600.0


def drive(address: str, folder: Path, cells: int, tests: int) -> None:
    """The driver: walk what is left, and print how that went."""
    wanted = naps(cells * tests, cells)
    ray.init(address, logging_level="ERROR", log_to_driver=False)
    ends, memory = [time.monotonic()], []

    def noted(ended: int) -> None:
        ends.append(time.monotonic())
        if ended % 100 == 0:
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

    _, failed = walk(folder, wanted, noted, tries=20)
    tenth = len(ends) // 10
    told = {"steps": len(ends) - 1, "failed": len(failed), "seconds": ends[-1] - ends[0]}
    print(json.dumps(told | {"steady": (ends[-1] - ends[tenth]) / max(1, len(ends) - 1 - tenth), "mib": memory}))


def driver(made: Any, folder: Path, arguments: argparse.Namespace) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    told = ["--drive", made.address, "--folder", str(folder)]
    told += ["--cells", str(arguments.cells), "--tests", str(arguments.tests)]
    return subprocess.Popen([sys.executable, "-m", "benchmarks.cluster", *told], stdout=subprocess.PIPE, text=True)


def undisturbed(made: Any, folder: Path, arguments: argparse.Namespace) -> None:
    out, _ = driver(made, folder, arguments).communicate(timeout=LIMIT)
    told = json.loads(out.splitlines()[-1])
    bound, steady = told["steps"] * NAP / arguments.nodes + NAP, told["steady"] * arguments.nodes
    print(f"undisturbed: {told['steps']} steps, {told['failed']} failed, {told['seconds']:.1f} s, bound {bound:.1f} s")
    print(f"  makespan / bound: {told['seconds'] / bound:.2f}; from a tenth on {steady / NAP:.2f}")
    print(f"  cost of a step on its core: {1000 * (steady - NAP):.1f} ms")
    print(f"  largest memory of the driver, every 100 steps: {told['mib'][:1]} … {told['mib'][-1:]} MiB")


def finished(folder: Path) -> dict[str, int]:
    """When what is there was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("store/frail/*/manifest.json")}


def disturbed(made: Any, nodes: list[Any], folder: Path, arguments: argparse.Namespace) -> None:
    draw, total = random.Random(arguments.seed), arguments.cells * (arguments.tests + 1)
    strikes = ["node"] * arguments.node_kills + ["driver"] * arguments.driver_kills
    draw.shuffle(strikes)
    moments = sorted(draw.randrange(1, max(2, total - 1)) for _ in strikes)
    begun, process = time.monotonic(), driver(made, folder, arguments)
    before: dict[str, int] = {}
    for moment, strike in zip(moments, strikes, strict=True):
        while len(finished(folder)) < moment and process.poll() is None:
            time.sleep(0.05)
        if strike == "node":
            kill(nodes.pop(draw.randrange(len(nodes))))
            nodes.append(add_node(made))
        elif process.poll() is None:
            process.kill()
            process.wait()
            before = finished(folder) | before
            process = driver(made, folder, arguments)
    out, _ = process.communicate(timeout=LIMIT)
    told, there = json.loads(out.splitlines()[-1]), finished(folder)
    again = sum(there.get(name) != when for name, when in before.items())
    print(f"{arguments.node_kills} nodes and {arguments.driver_kills} drivers killed: {time.monotonic() - begun:.1f} s")
    print(f"  {len(there)} of {total} steps are there, {told['failed']} failed, {again} finished ones done again")
    if len(there) != total or told["failed"] or again:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("cells", 1000), ("tests", 20), ("nodes", 8), ("node-kills", 20), ("driver-kills", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive, arguments.folder, arguments.cells, arguments.tests)
        return
    made = cluster(0)
    nodes = [add_node(made) for _ in range(arguments.nodes)]
    with tempfile.TemporaryDirectory() as folder:
        undisturbed(made, Path(folder) / "undisturbed", arguments)
        if arguments.node_kills or arguments.driver_kills:
            disturbed(made, nodes, Path(folder) / "disturbed", arguments)
    made.shutdown()


if __name__ == "__main__":
    main()
