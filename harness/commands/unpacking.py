"""Unpacking a quantised backbone, before anything that reads it is planned in full.

It is a step like any other, and the scheduler walks it alone: the keys of all others, and what their methods bring
along, follow from the unpacked tensors.
"""

from dataclasses import replace

from esft_bench.harness.commands.machines import machines
from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.commands.prepare import Prepared, prepare
from esft_bench.harness.commands.watch import Before
from esft_bench.harness.judge import make_judge
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.progress.display import Display
from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.terminal import Terminal
from esft_bench.spec.errors import UserError
from esft_bench.spec.judge import JudgeSettings


def unpacked(prepared: Prepared, options: RunOptions, console: Terminal) -> Prepared:
    """What was prepared, planned on the unpacked backbone, which is made where it is not there.

    What was written before a kill is gone on from, and what another run of the store is at is waited for. Raises
    UserError where it cannot be unpacked, NoSpaceError where there is no room.
    """
    unpacking = prepared.plan.unpacking
    if unpacking is None or unpacking.artifact is not None:
        return prepared
    console.say(unpacking.sentence)
    graph = Graph([unpacking.step], prepared.store)
    states = dict.fromkeys(prepared.plan.cells, "to do")
    with machines(prepared, graph, options) as on, Display(prepared.plan, console, states, prepared.folder) as display:
        display.begin([unpacking.step.kind])
        watcher = Before(display, "unpacking the backbone", "{}, MiB")
        executor = on.executor(Panel([make_judge(JudgeSettings())]), False)
        failed = Schedule(graph, executor, watcher, on.parallelism, [unpacking.step]).run()
    if failed:
        raise UserError(failed[unpacking.step])
    return replace(prepare(prepared.options), judges=prepared.judges)
