"""What a matrix costs on a Ray cluster besides its models, and what is lost where nodes and driver are killed.

    python -m benchmarks.cluster                                        # 1000 cells × 20 benchmarks on 8 nodes
    python -m benchmarks.cluster --cells 20 --node-kills 2 --driver-kills 1

Nodes of one core each are made of this machine. The plan is a real one, its steps take 50 ms each and leave what is
made up (made_up.py), the answers of one model as one order, as in a run. First an undisturbed walk: the bound is that
of list scheduling, all work divided by the cores, and the longest step; the cost of a step is what a core spends on it
beyond its 50 ms, once a tenth of the steps is over (Ray has started its processes then). Then the same with nodes
(raylet and all its children) and the driver killed at random moments, each followed by another one. Both write records
and report, which must be the same. All that was found is said once more in the last lines.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import ray

from benchmarks.commands import took
from benchmarks.made_up import Nap, Nothing, nap
from esft_bench.harness.execute.cluster.checks import check_nodes
from esft_bench.harness.execute.cluster.connect import nodes
from esft_bench.harness.execute.cluster.executor import RayExecutor
from esft_bench.harness.execute.executor import Ended, Progressed
from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.step import Job, Parallelism, Step
from esft_bench.harness.store.artifacts import Artifact
from tests.harness.drivers import Silent
from tests.harness.nodes import add_node, cluster, executor, kill

NAP = 0.05
ITEMS = 20
SETTLES = 15.0
"""Seconds that what Ray itself runs on the nodes gets to start."""
LIMIT = 6 * 3600.0
RUN, STORE = "runs/matrix", "runs/.store"
KINDS = ("profile", "questions", "train", "answers", "verdicts")
WRITTEN = ("report.md", "results.jsonl", "routing.json", "curves.jsonl")


class Naps(RayExecutor):
    """Runs a nap in place of each step."""

    does: Nothing

    def start(self, step: Step, job: Job) -> None:
        """Begin one."""
        super().start(nap(step, self.does, NAP), job)

    def wait(self) -> list[Progressed | Ended]:
        """What happened, as if it were to the steps themselves."""
        return [replace(each, step=each.step.of) for each in super().wait() if isinstance(each.step, Nap)]


@dataclass
class Seen(Silent):
    """When steps ended, by a clock, and the driver's memory in MiB at every hundredth."""

    times: list[float] = field(default_factory=lambda: [time.monotonic()])
    memory: list[int] = field(default_factory=list)

    def finished(self, step: Step, artifact: Artifact) -> None:
        """A step ended."""
        if len(self.times) % 100 == 0:
            self.memory.append(psutil.Process().memory_info().rss >> 20)
        self.times.append(time.monotonic())


def drive(address: str, folder: Path, cells: int) -> None:
    """The driver: walk what is left, write the report, and print how that went."""
    from benchmarks.matrix import nothing, planned  # here: nodes import this module, and need none of these
    from esft_bench.harness.progress.display import Display
    from esft_bench.harness.records.written import Written
    from esft_bench.harness.terminal import Terminal

    made = planned(folder, cells, ITEMS)
    made.folder.mkdir(parents=True, exist_ok=True)
    graph, does = made.plan.graph(made.store), nothing(made.plan)
    ray.init(address, logging_level="ERROR", log_to_driver=False)
    check_nodes(nodes(), made.store.root, [], [])  # as a run does; each has a process then
    runs, seen = executor(made.folder, Naps, tries=20), Seen()
    runs.does = does
    wanted = [step for path in made.plan.paths.values() for step in path.last]
    console = Terminal(file=(folder / "said").open("w"))
    with Display(made.plan, console, dict.fromkeys(made.plan.cells, "done"), made.folder):
        failed = Schedule(graph, runs, seen, Parallelism(), wanted).run()
    told = {"steps": len(seen.times) - 1, "failed": len(failed), "seconds": seen.times[-1] - seen.times[0]}
    tenth = len(seen.times) // 10
    told["steady"] = (seen.times[-1] - seen.times[tenth]) / max(1, len(seen.times) - 1 - tenth)
    told |= {"mib": seen.memory, "processor": sum(psutil.Process().cpu_times()[:2])}
    began = time.monotonic()
    Written(made.plan, graph, made.folder).refresh({})
    made.store.keep_looks(graph.artifacts.values())
    print(json.dumps(told | {"report": time.monotonic() - began}))


def driver(made: Any, folder: Path, arguments: argparse.Namespace) -> subprocess.Popen[str]:
    """A driver in a process of its own."""
    folder.mkdir(exist_ok=True)
    told = ["--drive", made.address, "--folder", str(folder), "--cells", str(arguments.cells)]
    command = [sys.executable, "-m", "benchmarks.cluster", *told]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def undisturbed(made: Any, folder: Path, arguments: argparse.Namespace) -> tuple[int, list[str]]:
    """Returns how many steps there are, and what there is to say of them."""
    out, _ = driver(made, folder, arguments).communicate(timeout=LIMIT)
    told = json.loads(out.splitlines()[-1])
    steps, bound = told["steps"], told["steps"] * NAP / arguments.nodes + NAP
    steady = told["steady"] * arguments.nodes
    asked = "plan", str(folder / "matrix.yaml"), "--run-dir", str(folder / "runs")
    plans, state = [took(*asked), took(*asked)], took("status", str(folder / RUN))
    lines = [
        f"{steps} steps, {told['failed']} failed, on {arguments.nodes} nodes",
        f"makespan {told['seconds']:.1f} s, bound {bound:.1f} s: {told['seconds'] / bound:.2f}; once a tenth is over "
        f"{steady / NAP:.2f}",
        f"cost of a step on its core {1000 * (steady - NAP):.1f} ms; processor time of the driver "
        f"{1000 * told['processor'] / steps:.1f} ms",
        f"memory of the driver {told['mib'][0]} MiB after 100 steps, {told['mib'][-1]} MiB at the end",
        f"plan of all of it {plans[0]}, again {plans[1]}; status {state}; records and report {told['report']:.1f} s",
    ]
    print("undisturbed:", *lines, sep="\n  ", flush=True)
    return int(steps), lines


def count(folder: Path) -> int:
    """How many steps are finished."""
    return sum(len(list(os.scandir(kind))) for kind in (folder / STORE).glob("[!.]*") if kind.name in KINDS)


def finished(folder: Path) -> dict[str, int]:
    """When what is there was finished."""
    there = (path for kind in KINDS for path in folder.glob(f"{STORE}/{kind}/*/manifest.json"))
    return {path.parent.name: path.stat().st_mtime_ns for path in there}


def disturbed(
    made: Any, alive: list[Any], folder: Path, total: int, arguments: argparse.Namespace
) -> tuple[bool, list[str]]:
    """Whether nothing was lost and none of what was finished done again, and what there is to say of that."""
    draw = random.Random(arguments.seed)
    strikes = ["node"] * arguments.node_kills + ["driver"] * arguments.driver_kills
    draw.shuffle(strikes)
    moments = sorted(draw.randrange(1, max(2, total - 1)) for _ in strikes)
    begun, process = time.monotonic(), driver(made, folder, arguments)
    before: dict[str, int] = {}
    for moment, strike in zip(moments, strikes, strict=True):
        while count(folder) < moment and process.poll() is None:
            time.sleep(0.1)
        if strike == "node":
            kill(alive.pop(draw.randrange(len(alive))))
            alive.append(add_node(made))
        elif process.poll() is None:
            process.kill()
            process.wait()
            before = finished(folder) | before
            process = driver(made, folder, arguments)
    out, _ = process.communicate(timeout=LIMIT)
    told, there = json.loads(out.splitlines()[-1]), finished(folder)
    again = sum(there.get(name) != when for name, when in before.items())
    lines = [
        f"{arguments.node_kills} nodes and {arguments.driver_kills} drivers killed: {time.monotonic() - begun:.1f} s, "
        "with the drivers' starts and the report",
        f"{len(there)} of {total} steps are there, {told['failed']} failed, {again} finished ones done again",
    ]
    print("killed:", *lines, sep="\n  ", flush=True)
    return len(there) == total and not told["failed"] and not again, lines


def same(one: Path, other: Path) -> tuple[bool, list[str]]:
    """Whether two runs wrote the same, but for the folders they lie in, and that in words."""
    texts = [{name: (folder / RUN / name).read_text() for name in WRITTEN} for folder in (one, other)]
    alike = {name: texts[0][name].replace(str(one), "") == texts[1][name].replace(str(other), "") for name in WRITTEN}
    told = (f"{name} ({len(texts[0][name])} bytes) {'is' if alike[name] else 'IS NOT'} the same" for name in WRITTEN)
    return all(alike.values()), [", ".join(told)]


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("cells", 1000), ("nodes", 8), ("node-kills", 20), ("driver-kills", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--drive", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive, arguments.folder, arguments.cells)
        return
    made = cluster(0)
    alive = [add_node(made) for _ in range(arguments.nodes)]
    time.sleep(SETTLES)
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder) / "undisturbed", Path(folder) / "disturbed"
        steps, lines = undisturbed(made, one, arguments)
        well = True
        if arguments.node_kills or arguments.driver_kills:
            for good, told in (disturbed(made, alive, other, steps, arguments), same(one, other)):
                well, lines = well and good, [*lines, *told]
    made.shutdown()
    load = f"{os.cpu_count()} cores, of which load was {os.getloadavg()[0]:.1f} at the end"
    print("in all:", *lines, load, "well" if well else "NOT WELL", sep="\n  ")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
