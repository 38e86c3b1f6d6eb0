"""What `plan` shows: the matrix and how far it is, what its items and runs can tell apart, and what it costs."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING

from rich.table import Table

from esft_bench.harness.commands.noted import noted, plain_table
from esft_bench.harness.commands.options import PriceOptions
from esft_bench.harness.commands.prepare import Prepared
from esft_bench.harness.plan.price.hardware import accelerator
from esft_bench.harness.plan.state import state_of
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.keys import modules_of, sources
from esft_bench.harness.store.soundness import stamp
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import digest_of_text
from esft_bench.spec.results import JSONL

if TYPE_CHECKING:
    from esft_bench.reports.statistics.detectable import Deviations

DEVIATIONS = ".deviations"
"""The notes on how much differences varied in runs."""


def tables(prepared: Prepared, options: PriceOptions) -> Iterator[Table]:
    """All that is shown, as it is made."""
    graph = prepared.plan.look(prepared.store)
    yield describe(prepared, graph)
    yield from foreseen(prepared)
    if options.detect is not None:
        from esft_bench.harness.commands.detect import Rates, needed

        rates = Rates(accelerator(options.gpu), options.micro_batch, options.hourly)
        yield needed(prepared, graph, options.detect, rates)
    if options.price:
        yield from prices(prepared, graph, options)


def describe(prepared: Prepared, graph: Graph) -> Table:
    """The matrix with the state of each cell."""
    plan, suite = prepared.plan, prepared.plan.suite
    states = {cell: state_of(path, graph) for cell, path in plan.paths.items()}
    done = sum(state == "done" for state in states.values())
    title = f"{suite.name}: {len(states)} cells, {done} done; {plan.engine.name}; judge {plan.judge}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("method")
    for task in suite.tasks:
        table.add_column(plan.tasks[task].title)
    chosen = set(prepared.chosen)
    for row in suite.methods:
        cells = [cell for cell in states if cell.method == row]
        by_task = [[cell for cell in cells if task in cell.tasks or not cell.task] for task in suite.tasks]
        shown = [_counted(states[c] if c in chosen else f"({states[c]})" for c in group) for group in by_task]
        table.add_row(suite.title(row), *shown)
    tested = dict.fromkeys(name for cell in plan.cells for name in plan.matrix.benchmarks(cell))
    table.caption = "Items: " + ", ".join(f"{plan.tasks[name].title} {plan.data[name].count}" for name in tested)
    table.caption_justify = "left"
    return table


def _counted(states: Iterable[str]) -> str:
    """States, each once with how many there are of it."""
    return ", ".join(f"{count} × {state}" if count > 1 else state for state, count in Counter(states).items())


def foreseen(prepared: Prepared) -> list[Table]:
    """What the planned items and seeds can tell apart, and what that assumes: a table, made once for each such plan."""
    plan = prepared.plan
    own = [name for task in plan.suite.tasks for name in plan.matrix.tested_on(task)]
    tested = {name: plan.tasks[name].title for name in dict.fromkeys([*own, *plan.suite.general])}
    told = {
        "shape": [len(plan.suite.methods), len(plan.suite.seeds), len(plan.suite.tasks)],
        "items": [[name, title, plan.data[name].count, name in own] for name, title in tested.items()],
        "before": _stamp(prepared),
    }
    return noted(prepared.store, told, lambda: [_told(prepared)])


def prices(prepared: Prepared, graph: Graph, options: PriceOptions) -> list[Table]:
    """What a run will cost: tables, made once for each such plan, with the profiles that are there."""
    plan, device = prepared.plan, accelerator(options.gpu)
    profiles = [artifact.name for step in plan.profiles.values() if (artifact := graph.artifacts.get(step)) is not None]
    modules = {name: None for method in plan.methods.values() for name in modules_of(method)}
    told = {
        "device": asdict(device),
        "asked": [options.gpus, options.hourly, options.micro_batch],
        "suite": plan.suite.model_dump(mode="json"),
        "steps": digest_of_text(" ".join(step.identity for step in graph.steps)),
        "profiles": profiles,
        "methods": sources(tuple(modules)),
    }

    def made() -> list[Table]:
        from esft_bench.harness.plan.price.fleet import Fleet  # here: it brings torch along
        from esft_bench.harness.plan.price.show import price_tables

        fleet = Fleet(device, options.gpus, options.hourly)
        return price_tables(plan, graph, fleet, options.micro_batch)

    return noted(prepared.store, told, made)


def _told(prepared: Prepared) -> Table:
    """A line for each benchmark."""
    from esft_bench.reports.power import ASSUMED, ASSUMPTION, SHARE, Design

    plan = prepared.plan
    seen = deviations(prepared)
    rows, seeds, tasks = len(plan.suite.methods), len(plan.suite.seeds), len(plan.suite.tasks)
    table = plain_table("Minimum detectable effect")
    for name in ("benchmark", "items", "runs", "points", "given"):
        table.add_column(name, justify="right" if name in ("items", "runs", "points") else "left")
    own = [name for task in plan.suite.tasks for name in plan.matrix.tested_on(task)]
    for benchmark in dict.fromkeys([*own, *plan.suite.general]):
        runs = seeds if benchmark in own else seeds * tasks
        count, varied = plan.data[benchmark].count, seen.get(benchmark)
        points = f"{Design(rows, varied or ASSUMED).detectable(count, runs):.1f}"
        given = "deviations seen in the run before" if varied else "assumed"
        table.add_row(plan.tasks[benchmark].title, str(count), str(runs), points, given)
    table.caption = (
        f"Found with 80% probability among the pairs of {rows} rows, of which {SHARE:.0%} are taken to differ (5% of "
        f"those called so by chance). {ASSUMPTION} With one run it is a difference between two trainings, not methods."
    )
    return table


def deviations(prepared: Prepared) -> "dict[str, Deviations]":
    """How much differences varied in the run before; noted, since all items of a run are read for it.

    What was noted counts as long as nobody has touched the run's results.
    """
    from esft_bench.reports.statistics.detectable import Deviations

    now = _stamp(prepared)
    if not now:
        return {}
    notes = prepared.store.notes(DEVIATIONS)
    known = notes.read(prepared.folder.name)
    if known is None or known["stamp"] != now:
        from esft_bench.reports.power import deviations_in

        found = {name: astuple(each) for name, each in deviations_in(prepared.folder).items()}
        known = {"stamp": now, "deviations": found}
        with suppress(OSError, UserError):  # of a store that may only be read
            notes.write(prepared.folder.name, known)
    return {name: Deviations(*each) for name, each in known["deviations"].items()}


def _stamp(prepared: Prepared) -> str:
    """What changes where somebody touches the results of the run before; empty where there are none."""
    results = prepared.folder / JSONL
    return stamp({JSONL: results.stat()}) if results.is_file() else ""
