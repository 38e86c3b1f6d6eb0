"""What a cell's test spends where, and what a run spends besides its cells: python -m benchmarks.cell_cost [SUITE]

A cell of the suite is trained and then tested, in turn with the backbone, so that every round swaps weights as a run
does. Counted are processor seconds, which other load on the machine does not change: of this process (the host: keys,
merging, lm-eval, scoring, the store), of vLLM's front (HTTP, JSON, log-probabilities as text) and of its engine (the
model, and the swap of its weights). The last line is the host's share of a cell's test, without what is done once for
all cells.

    python -m benchmarks.cell_cost paper --on-paper [--data-dir FOLDER]

computes for a large suite, at DeepSeek-V2-Lite's shapes and from `plan`'s prices, which share of its GPU hours is not
the model: weights read, written and hashed, and the host's time for a request, which is measured first.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.paper_cost import Assumed, PaperCost, paper_costs
from benchmarks.step_time import machine
from esft_bench.harness.commands.options import SuiteOptions
from esft_bench.harness.commands.prepare import Prepared, prepare
from esft_bench.harness.execute.child import quieten
from esft_bench.harness.plan.paths import CellPath
from esft_bench.harness.schedule import manifest_of
from esft_bench.harness.serving.served import Served, make_engine
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.step import Job, Step, with_needs
from esft_bench.spec.files import made_folder

PARTS = ("host", "front", "engine")


@dataclass
class Spent:
    """Processor seconds by what they were spent on, of the host and of the server's two halves."""

    rows: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0] * len(PARTS)))

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count a block."""
        begin = _now()
        yield
        self.rows[what] = [sum(each) for each in zip(self.rows[what], _now(), map(float.__neg__, begin), strict=True)]

    @property
    def host_share(self) -> float:
        """The host's share of it all."""
        return sum(row[0] for row in self.rows.values()) / sum(map(sum, self.rows.values()))


def _now() -> list[float]:
    """Processor seconds so far of this process, of the server's front and of its engine."""
    front = engine = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times, command = child.cpu_times(), " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "serving.launch" in command:
            front += times.user + times.system
        else:
            engine += times.user + times.system
    own = os.times()
    return [own.user + own.system, front, engine]


class Bench:
    """A plan whose cells are carried out in this process."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.store = prepared, prepared.store
        self.graph = Graph([step for path in prepared.plan.paths.values() for step in path.last], prepared.store)
        settings = prepared.plan.engine
        self.served = Served(lambda: make_engine(settings, prepared.run_dir / "server"))

    def made(self, step: Step, spent: Spent) -> None:
        """Run a step and put its artifact into the store."""
        self.together([step], spent, {type(step): step.kind}.get)

    def together(self, steps: list[Step], spent: Spent, name: Callable[[type], str | None] = lambda _: None) -> None:
        """Run steps of one kind together, as an executor does, and put what they leave into the store."""
        with spent.on("keys and folders"):
            keys = [self.graph.key(step) for step in steps]
            jobs = [self._job(step, key) for step, key in zip(steps, keys, strict=True)]
        with spent.on(name(type(steps[0])) or "asking and scoring"):
            measured = type(steps[0]).run_together(list(zip(steps, jobs, strict=True)))
        with spent.on("manifests and the store"):
            for step, key, job, each in zip(steps, keys, jobs, measured, strict=True):
                manifest = manifest_of(step, key, self.graph.inputs(step), each)
                self.graph.put(step, self.store.finish(job.out, manifest))

    def _job(self, step: Step, key: str) -> Job:
        inputs = {role: artifact.folder for role, artifact in self.graph.inputs(step).items()}
        out = made_folder(self.store.begin(step.kind, key))
        return Job(inputs, out, self.store.scratch(key), borrowed=self.served)

    def tested(self, path: CellPath, spent: Spent) -> None:
        """Serve a cell's model and ask it all its benchmarks."""
        step = next(iter(path.answers.values()))
        trained = [self.graph.artifacts[each].folder for each in path.training.ends_with]
        with spent.on("merging, swapping, canary"):
            self.served.serve(path.training.identity, path.training.backbone.path, trained, self.store.scratch("bench"))
        assert step.training is path.training
        self.together(list(path.answers.values()), spent)


def measure(prepared: Prepared, row: str, rounds: int) -> tuple[Spent, Mapping[str, float], int]:
    """What a round of one cell's test costs, the median of several; what is done once; the requests of the cell."""
    bench = Bench(prepared)
    paths = [prepared.plan.paths[cell] for cell in prepared.plan.cells if cell.method in ("base", row)][:2]
    once = Spent()
    try:
        for step in with_needs(step for path in paths for step in path.answers.values()):
            if step not in bench.graph.finished and step.kind != "answers":
                bench.made(step, once)
        found = []
        for _ in range(rounds + 1):
            for path in paths:
                spent = Spent()
                bench.tested(path, spent)
            found.append(spent)  # of the last path, whose weights are swapped in after the backbone's
    finally:
        bench.served.close()
    asked = (bench.graph.artifacts[step.questions] for step in paths[-1].answers.values())
    requests = sum(int(each.measured["requests"]) for each in asked)
    return _median(found[1:]), {what: sum(row) for what, row in once.rows.items()}, requests


def _median(found: list[Spent]) -> Spent:
    rows = {what: [statistics.median(each.rows[what][n] for each in found) for n in range(3)] for what in found[0].rows}
    return replace(found[0], rows=defaultdict(list, rows))


def table_of(spent: Spent) -> Table:
    """Seconds by what they were spent on and by whom."""
    table = Table("processor seconds", *PARTS, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for what, row in spent.rows.items():
        table.add_row(what, *(f"{seconds:.2f}" for seconds in row))
    table.add_section()
    table.add_row("all", *(f"{sum(row[n] for row in spent.rows.values()):.2f}" for n in range(len(PARTS))))
    return table


def print_paper(costs: list[PaperCost], assumed: Assumed, console: Console) -> None:
    """The hours of a suite with the model and without."""
    console.print(
        f"assumed, besides what `plan` does: disk {assumed.disk / 1e9:.0f} GB/s, generating at "
        f"{assumed.generating:.0%} of training's rate; measured: {1e3 * assumed.request:.2f} ms of the host a request"
    )
    table = Table("row", "cells", "GPU hours a cell", "not the model", box=None, pad_edge=False)
    for cost in costs:
        whole = cost.model + cost.rest
        table.add_row(cost.row, str(cost.cells), f"{whole / 3600:.2f}", f"{cost.rest / whole:.1%}")
    console.print(table)
    rest, model = (
        sum(cost.cells * seconds for cost, seconds in zip(costs, each, strict=True))
        for each in ([cost.rest for cost in costs], [cost.model for cost in costs])
    )
    console.print(f"not the model {rest / (rest + model):.1%} of {(rest + model) / 3600:.0f} GPU hours")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suite", nargs="?", default="mini")
    parser.add_argument("--row", default="fft", help="the row whose first cell is tested")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--on-paper", action="store_true", help="compute the share of the suite's GPU hours instead")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    quieten(1)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        suite = "mini" if arguments.on_paper else arguments.suite
        prepared = prepare(SuiteOptions(suite, run_dir=Path(folder) / "runs"))
        begin = time.monotonic()
        spent, once, requests = measure(prepared, arguments.row, arguments.rounds)
        if arguments.on_paper:
            assumed = Assumed(sum(row[0] for row in spent.rows.values()) / requests)
            costs = list(paper_costs(arguments.suite, arguments.data_dir, assumed, Path(folder)))
            print_paper(costs, assumed, console)
            return
    console.print(f"{machine()}; {suite}, a cell of {arguments.row}, median of {arguments.rounds} rounds")
    console.print(f"once for all cells: {', '.join(f'{what} {seconds:.2f} s' for what, seconds in once.items())}")
    console.print(table_of(spent))
    console.print(f"({time.monotonic() - begin:.0f} s on the clock)")
    console.print(f"host share {spent.host_share:.0%}")


if __name__ == "__main__":
    main()
