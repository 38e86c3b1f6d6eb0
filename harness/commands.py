"""From a command's options to a plan, and from a plan to a finished run: what the commands share."""

import importlib.metadata
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from esft_bench.harness.availability import with_available
from esft_bench.harness.doctor import vllm_version
from esft_bench.harness.judge import Judge, choose
from esft_bench.harness.plan import Plan, make_plan
from esft_bench.harness.store import Store, locked
from esft_bench.harness.trial import with_backbone, with_steps
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import full_disk_is_a_sentence
from esft_bench.spec.suite import Suite, quick_slice, selection, with_seeds
from esft_bench.spec.suite_file import load
from esft_bench.tasks.source import Address, Source

STORE = ".store"
"""The folder of artifacts under --run-dir, shared by its runs: nothing is computed twice."""


@dataclass(frozen=True)
class Prepared:
    """A suite, checked and planned, with its judge and what there is to say about it."""

    plan: Plan
    judge: Judge
    run_dir: Path
    notes: list[str]


def prepare(
    name: str,
    *,
    only: str = "",
    seeds: str = "",
    quick: bool = False,
    data_dir: Path | None = None,
    run_dir: Path,
    engine: str | None = None,
    limit: int | None = None,
    port: int | None = None,
    backbone: str | None = None,
    steps: int | None = None,
    weights: bool = True,
) -> Prepared:
    """Read a suite, apply the command's options, check everything and plan it. Computes nothing.

    Without `weights` the backbone need not be there whole: for `plan`.
    """
    suite = load(name)
    notes: list[str] = []
    if steps:
        suite = with_steps(suite, steps)
    if backbone:
        suite, notes = with_backbone(suite, backbone, steps=steps)
    if quick:
        suite = quick_slice(suite)
    if seeds:
        suite = with_seeds(suite, _numbers(seeds))
    suite = _with_evaluation(suite, engine, limit, port)
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir}: there is no such folder.")
    source = Source(data_dir, addresses={name: Address(**at.model_dump()) for name, at in suite.data.items()})
    if data_dir is not None:
        suite, missing = with_available(suite, source)
        notes += missing
    judge, note = choose(suite.judge, account=str((run_dir / suite.name).resolve()))
    plan = make_plan(
        suite,
        Store(run_dir / STORE),
        source,
        chosen=selection(suite, only),
        engine=_engine_version(suite),
        judge=judge.name,
        weights=weights,
    )
    notes += [*_validated(suite), *(task.note for task in plan.tasks.values() if task.note)]
    return Prepared(plan, judge, run_dir, [*notes, *([note] if note else [])])


def _validated(suite: Suite) -> list[str]:
    """What a suite says about looking at its trainings while they go on; nothing where it does not."""
    training = suite.training
    if training.evaluate_every is None:
        return []
    kept = "lowest loss there was" if training.choose == "best" else "last step were"
    return [
        f"Every {training.evaluate_every} steps the loss on {training.validation_items} rows held out of each task's "
        f"training data was measured; the weights of the {kept} taken."
    ]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds {text}: write whole numbers with commas between, e.g. 0,1,2.") from error


def _with_evaluation(suite: Suite, engine: str | None, limit: int | None, port: int | None) -> Suite:
    if engine not in (None, "vllm", "transformers"):
        raise UserError(f"--engine {engine}: there are vllm and transformers.")
    changes = {"engine": engine, "limit": limit, "port": port}
    chosen = {name: value for name, value in changes.items() if value is not None}
    return suite.model_copy(update={"evaluation": suite.evaluation.model_copy(update=chosen)})


def _engine_version(suite: Suite) -> str:
    """The engine as the report names it; refuses vLLM where it is not installed."""
    if suite.evaluation.engine == "transformers":
        return f"transformers {importlib.metadata.version('transformers')}"
    version = vllm_version()
    if version is None:
        raise UserError("vLLM is not installed here: run `make env`, or choose --engine transformers.")
    return f"vllm {version}"


def execute(
    prepared: Prepared,
    console: Console,
    *,
    command: str,
    workers: int | None = None,
    micro_batch: int | None = None,
    processes: int = 1,
    keep_checkpoints: bool = False,
) -> int:
    """Walk the plan; returns the number of cells that failed."""
    from esft_bench.harness.calibrate import carry
    from esft_bench.harness.progress import Display
    from esft_bench.harness.run import run
    from esft_bench.harness.walk import Transport, Walk

    folder = prepared.run_dir / prepared.plan.suite.name
    walk = Walk(
        plan=prepared.plan,
        folder=folder,
        judge=prepared.judge,
        transport=Transport(_workers(workers, processes), 1, micro_batch, processes, keep_checkpoints),
        display=Display(prepared.plan, console),
        command=command,
        notes=prepared.notes,
    )
    _log_to_file(walk.log)
    for note in prepared.notes:
        console.print(f"Note: {note}", highlight=False)
    with locked(prepared.run_dir), full_disk_is_a_sentence(walk.log):
        carry(prepared.plan, prepared.judge, folder)
        failures = run(walk)
    console.print(f"Report: {folder / 'report.html'} and report.md", highlight=False, soft_wrap=True)
    if failures:
        console.print(f"{len(failures)} cells failed; the same command tries them again.", highlight=False)
    return len(failures)


def _log_to_file(log: Path) -> None:
    """Send what libraries have to say to the run's log instead of the terminal."""
    import transformers

    with full_disk_is_a_sentence(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        transformers.logging.disable_progress_bar()
        logging.basicConfig(filename=log, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", force=True)


def _workers(wanted: int | None, processes: int) -> int:
    """Cells trained side by side, each in `processes`.

    Unless told, one where there are accelerators; without them, one a core (a small model uses one core whatever it is
    given). Raises UserError for more processes than accelerators, or for cells side by side that would share them.
    """
    import torch

    if torch.cuda.is_available():
        if processes > torch.cuda.device_count():
            raise UserError(f"--processes {processes}: this machine has {torch.cuda.device_count()} GPU(s).")
        if processes > 1 and (wanted or 1) > 1:
            raise UserError(f"--processes {processes} uses the GPUs for one cell at a time: leave out --workers.")
        return wanted or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or max(1, cores // processes)


def describe(prepared: Prepared) -> Table:
    """The matrix with the state of each cell."""
    plan = prepared.plan
    states = {cell: plan.state(cell) for cell in plan.cells}
    done = sum(state == "done" for state in states.values())
    title = f"{plan.suite.name}: {len(states)} cells, {done} done; {plan.engine}; judge {plan.judge}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("method")
    for task in plan.suite.tasks:
        table.add_column(plan.tasks[task].title)
    chosen = set(plan.chosen_cells)
    for row in plan.suite.methods:
        cells = [cell for cell in states if cell.method == row]
        by_task = [[cell for cell in cells if task in cell.tasks or not cell.task] for task in plan.suite.tasks]
        shown = [", ".join(states[c] if c in chosen else f"({states[c]})" for c in group) for group in by_task]
        table.add_row(plan.suite.title(row), *shown)
    tested = dict.fromkeys(name for cell in plan.cells for name in plan.benchmarks(cell))
    table.caption = "Items: " + ", ".join(f"{plan.tasks[name].title} {plan.data[name].count}" for name in tested)
    table.caption_justify = "left"
    return table


def foreseen(prepared: Prepared) -> Table:
    """What the planned items and seeds can tell apart, a line for each benchmark, and what that assumes."""
    from esft_bench.reports.foresight import ASSUMED, resolvable_by, seen_in

    plan = prepared.plan
    seen = seen_in(prepared.run_dir / plan.suite.name)
    rows, seeds, tasks = len(plan.suite.methods), len(plan.suite.seeds), len(plan.suite.tasks)
    table = Table(title="Smallest difference that can be resolved", title_justify="left", box=None, pad_edge=False)
    for name in ("benchmark", "items", "runs", "points", "given"):
        table.add_column(name, justify="right" if name in ("items", "runs", "points") else "left")
    own = [name for task in plan.suite.tasks for name in plan.tested_on(task)]
    for benchmark in dict.fromkeys([*own, *plan.suite.general]):
        runs = seeds if benchmark in own else seeds * tasks
        count, spread = plan.data[benchmark].count, seen.get(benchmark)
        points = f"{resolvable_by(count, runs, rows, spread):.1f}"
        given = "the spread seen in the run before" if spread else f"a spread of {ASSUMED:.0f} points over items"
        table.add_row(plan.tasks[benchmark].title, str(count), str(runs), points, given)
    table.caption = (
        f"Found with 80% probability, 5% level, Holm's correction over the pairs of {rows} rows. A spread of "
        f"{ASSUMED:.0f} points: all-or-nothing scores of which a quarter differ between two rows; how much a row "
        "varies from one training run to the next is known only from an earlier run with several seeds."
    )
    table.caption_justify = "left"
    return table
