"""What a matrix costs besides its models: python -m benchmarks.matrix [CELLS ...] [--items N] [--profile PHASE]

A suite of so many cells, each tested on twenty benchmarks, is planned, carried out by steps that write what they would
write and compute nothing, looked at, planned again and reported. Counted are processor seconds of this process, which
other load on the machine changes little, and its memory; what grows faster than the matrix shows from one line to the
next. Last, `esft-bench plan` and `status` are measured as commands. `--profile` prints where a phase spends its time.
"""

import argparse
import cProfile
import json
import os
import pstats
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.commands import took
from benchmarks.made_up import EXPERTS, LAYERS, PROFILE, Nothing
from benchmarks.step_time import machine
from esft_bench.harness.commands.options import SuiteOptions
from esft_bench.harness.commands.plan import describe
from esft_bench.harness.commands.prepare import Prepared, prepare
from esft_bench.harness.commands.status import status
from esft_bench.harness.commands.watch import Watch
from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.progress.display import Display
from esft_bench.harness.records.written import Written
from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.step import Parallelism
from esft_bench.harness.terminal import Terminal
from esft_bench.methods.moe.profile import Profile
from esft_bench.spec.files import write_jsonl
from tests.harness.executors import Beside

ROWS = {
    **{f"fft-{number}": f"{{method: fft, learning_rate: {number + 1}.0e-4}}" for number in range(2)},
    **{f"lora-{rank}": f"{{method: lora, learning_rate: 1.0e-3, rank: {rank}, alpha: 4}}" for rank in (2, 4)},
    **{f"token-{p}": f"{{method: esft-token, learning_rate: 1.0e-2, p: 0.{p}}}" for p in (1, 2, 3)},
    **{f"gate-{p}": f"{{method: esft-gate, learning_rate: 1.0e-2, p: 0.{p}}}" for p in (1, 2)},
    "random": "{ablates: token-2}",
}
TASKS = ["mini-intent", "mini-law", "mini-summary", "mini-translation"]
GENERAL = 19
"""Benchmarks that every cell is tested on besides its own."""
AT_ONCE = 8
"""Steps at work at a time."""


def suite_text(folder: Path, cells: int, items: int) -> str:
    """A suite of about so many cells, whose general benchmarks are files of their own."""
    own = []
    for number in range(GENERAL):
        rows = [{"prompt": f"{number}: what is {row} + {number}?", "answer": str(row + number)} for row in range(items)]
        tested, trained = folder / f"skill-{number}.jsonl", folder / f"skill-{number}-trained.jsonl"
        write_jsonl(tested, rows)
        write_jsonl(trained, [{"prompt": f"{number}: who are you?", "answer": "nobody"}] * 2)
        own.append(f"{{name: skill-{number}, files: [{trained}], test: [{tested}], metric: exact_match}}")
    seeds = max(1, round(cells / (len(ROWS) * len(TASKS))))
    rows = "\n".join(f"  {name}: {told}" for name, told in ROWS.items())
    return f"""\
name: matrix
tasks: [{", ".join(TASKS)}]
general: [{", ".join(own)}]
alignment: mini-alignment
seeds: [{", ".join(map(str, range(seeds)))}]
methods:
  base: {{title: Base}}
{rows}
training: {{steps: 20, batch_size: 2, sequence_length: 128}}
profiling: {{sequences: 4, sequence_length: 128, after_training: true}}
evaluation: {{engine: transformers, max_length: 512, limit: {items}}}
rehearse: never
"""


def planned(folder: Path, cells: int, items: int) -> Prepared:
    """The suite, planned."""
    path = folder / "matrix.yaml"
    path.write_text(suite_text(folder, cells, items))
    return prepare(SuiteOptions(str(path), run_dir=folder / "runs"))


def nothing(plan: Plan) -> Nothing:
    """What stands in for a plan's steps."""
    import torch

    share = torch.rand(len(LAYERS), EXPERTS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        Profile(LAYERS, 6, 1000, 4, share * 6000, share * 400, share, share).save(Path(folder))
        profile = (Path(folder) / PROFILE).read_bytes()
    return Nothing({name: data.count for name, data in plan.data.items()}, profile)


@dataclass
class Measured:
    """Processor seconds by phase, and megabytes of memory after it; `shown` is profiled."""

    shown: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a block."""
        profiler = cProfile.Profile() if name == self.shown else None
        began = _processor()
        if profiler:
            profiler.enable()
        yield
        if profiler:
            profiler.disable()
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(60)
        self.seconds[name] = _processor() - began
        self.memory[name] = psutil.Process().memory_info().rss / 2**20


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(folder: Path, cells: int, items: int, shown: str) -> dict[str, Any]:
    """All phases of one matrix."""
    found = Measured(shown)
    with found.phase("first plan"):
        made = planned(folder, cells, items)
    with found.phase("graph"):
        graph = made.plan.graph(made.store)
    executor = Beside(nothing(made.plan), AT_ONCE)
    written = Written(made.plan, graph, made.folder)
    made.folder.mkdir(parents=True, exist_ok=True)
    console = Terminal(file=(folder / "said").open("w"))
    with found.phase("run"), Display(made.plan, console, {}, made.folder) as display:
        watch = Watch(made, graph, written, display)
        wanted = [step for path in made.plan.paths.values() for step in path.last]
        failed = Schedule(graph, executor, watch, Parallelism(), wanted).run()
    assert not failed
    made.store.keep_looks(graph.artifacts.values())
    _looked_at(found, folder, cells, items)
    asked = "plan", str(folder / "matrix.yaml"), "--run-dir", str(folder / "runs")
    commands = {
        "plan, the command": took(*asked),
        "plan, the command again": took(*asked),
        "status, the command": took("status", str(made.folder)),
    }
    return {
        "cells": len(made.plan.cells),
        "steps": executor.done,
        **{f"{name}, s": round(seconds, 2) for name, seconds in found.seconds.items()},
        "run, ms a step": round(1000 * found.seconds["run"] / executor.done, 2),
        **{f"MB after {name}": round(size) for name, size in found.memory.items() if name in ("graph", "run")},
        **{name: str(each) for name, each in commands.items()},
    }


def _looked_at(found: Measured, folder: Path, cells: int, items: int) -> None:
    """What is asked of a finished matrix."""
    with found.phase("plan"):
        made = planned(folder, cells, items)
        graph = made.plan.look(made.store)
        describe(made, graph)
    with found.phase("status"):
        list(status(made.folder))
    written = Written(made.plan, graph, made.folder)
    with found.phase("report"):
        written.refresh({})
    with found.phase("report, unchanged"):
        Written(made.plan, graph, made.folder).refresh({})


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do work in a process of its own, whose memory is its own too."""
    ours, theirs = os.pipe()
    if child := os.fork():
        os.close(theirs)
        with os.fdopen(ours) as said:
            told = said.read()
        assert os.waitpid(child, 0)[1] == 0
        return dict(json.loads(told))
    with os.fdopen(theirs, "w") as say:
        json.dump(work(), say)
    os._exit(0)


def main() -> None:
    """Print a line of figures for each matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", type=int, default=[100, 300, 1000])
    parser.add_argument("--items", type=int, default=20, help="of each benchmark")
    parser.add_argument("--profile", default="", help="first plan, graph, run, plan, status, report")
    told = parser.parse_args()
    print(machine())
    for cells in told.cells:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(in_child(lambda at=place, n=cells: measure(Path(at), n, told.items, told.profile))))


if __name__ == "__main__":
    main()
