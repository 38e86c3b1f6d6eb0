"""Unpacking a quantised backbone, before anything that reads it is planned in full."""

from dataclasses import replace

from esft_bench.harness.commands.prepare import Prepared, prepare
from esft_bench.harness.progress.display import Display
from esft_bench.harness.schedule import manifest_of
from esft_bench.harness.steps.step import Job
from esft_bench.harness.terminal import Terminal


def unpacked(prepared: Prepared, console: Terminal) -> Prepared:
    """What was prepared, planned on the unpacked backbone, which is made where it is not there.

    What was written before a kill is gone on from. Raises UserError where it cannot be unpacked, NoSpaceError where
    there is no room.
    """
    unpacking = prepared.plan.unpacking
    if unpacking is None or unpacking.artifact is not None:
        return prepared
    step, store = unpacking.step, prepared.store
    console.say(unpacking.sentence)
    key = step.key({})
    with Display(prepared.plan, console, dict.fromkeys(prepared.plan.cells, "to do"), prepared.folder) as display:
        display.enter_phase("unpacking the backbone")
        with store.leases.held(f"{step.kind}-{key}"):  # another run of this store waits, and finds it
            if store.find(step.kind, key) is None:
                job = Job({}, store.begin(step.kind, key), store.scratch(key))
                job = replace(job, progress=lambda done, total: display.step(f"{step.label}, MiB", done, total))
                store.finish(job.out, manifest_of(step, key, {}, step.run(job)))
    return replace(prepare(prepared.options), judges=prepared.judges)
