"""What `plan --detect` shows: how many seeds, or items, a difference of some points needs, and what these cost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.table import Table

from esft_bench.harness.commands.prepare import Prepared
from esft_bench.harness.plan.price.hardware import Accelerator
from esft_bench.harness.steps.graph import Graph
from esft_bench.reports.power import ASSUMED, ASSUMPTION, Design, averaged_over, deviations_in, spent_in
from esft_bench.reports.prose.hour import HOUR, Spent
from esft_bench.reports.statistics.detectable import Deviations

NEVER = "no number"
"""Where the other of the two, seeds or items, stands in the way."""


@dataclass(frozen=True)
class Rates:
    """What costs are reckoned by: the device, sequences in memory at once, and dollars for its hour, where given."""

    device: Accelerator
    micro_batch: int | None = None
    hourly: float | None = None


@dataclass(frozen=True)
class Line:
    """A line of the table: items of a benchmark (their mean, for an average), and the runs that each seed adds."""

    title: str
    items: int
    runs_a_seed: int
    design: Design
    seen: bool


def needed(prepared: Prepared, graph: Graph, points: float, rates: Rates) -> Table:
    """For each benchmark the seeds with its items, or the items with the planned seeds, that show such a difference."""
    spent = spent_in(prepared.folder)
    measured = spent if spent is not None and spent.testing else None
    cost = measured or _estimated(prepared, graph, rates)
    planned = len(prepared.plan.suite.seeds)
    table = Table(title=f"To find a difference of {points:g} points", title_justify="left", box=None, pad_edge=False)
    for name in ("benchmark", "items", "seeds", "seeds needed", "costs", "or items", "costs", "given"):
        table.add_column(name, justify="left" if name in ("benchmark", "given") else "right")
    for line in _lines(prepared, deviations_in(prepared.folder)):
        seeds = line.design.seeds_needed(points, line.items, line.runs_a_seed)
        items = line.design.items_needed(points, planned * line.runs_a_seed)
        table.add_row(
            line.title,
            *(str(line.items), str(planned)),
            *(str(seeds or NEVER), _costs(seeds and max(seeds - planned, 0) * cost.of_a_seed, rates)),
            *(str(items or NEVER), _more_items(items, line.items, cost, rates)),
            "seen in the run before" if line.seen else "assumed",
        )
    table.caption = " ".join(_caption(measured, rates))
    table.caption_justify = "left"
    return table


def _lines(prepared: Prepared, seen: Mapping[str, Deviations]) -> Iterator[Line]:
    """The average over the tasks, then each benchmark."""
    plan = prepared.plan
    rows = len(plan.suite.methods)
    own = list(dict.fromkeys(name for task in plan.suite.tasks for name in plan.matrix.tested_on(task)))
    if len(own) > 1:
        known = [seen.get(name, ASSUMED) for name in own]
        items = sum(plan.data[name].count for name in own) // len(own)
        whole = all(name in seen for name in own)
        yield Line("Average over the tasks", items, 1, Design(rows, averaged_over(known), len(own)), whole)
    for name in dict.fromkeys([*own, *plan.suite.general]):
        runs = 1 if name in own else len(plan.suite.tasks)
        design = Design(rows, seen.get(name, ASSUMED))
        yield Line(plan.tasks[name].title, plan.data[name].count, runs, design, name in seen)


def _estimated(prepared: Prepared, graph: Graph, rates: Rates) -> Spent:
    """What training is estimated to take on the device; testing is not known before a run."""
    from esft_bench.harness.plan.price.estimate import training_prices  # here: it brings torch along

    prices = training_prices(prepared.plan, graph, rates.device, rates.micro_batch)
    return Spent(sum(price.seconds * price.cells for price in prices), 0.0, len(prepared.plan.suite.seeds))


def _more_items(items: int | None, count: int, cost: Spent, rates: Rates) -> str:
    """What testing all cells on the further items takes, as far as it was measured."""
    if items is None or not cost.testing:
        return "–"
    return _costs(max(items / max(count, 1) - 1, 0.0) * cost.testing, rates)


def _costs(seconds: float | None, rates: Rates) -> str:
    """Hours, and dollars where an hour's price is given."""
    if seconds is None:
        return "–"
    if seconds == 0:
        return "nothing"
    hours = seconds / HOUR
    dollars = f", ${hours * rates.hourly:,.2f}" if rates.hourly is not None else ""
    return f"{hours:,.1f} h{dollars}" if hours >= 0.1 else f"{60 * hours:,.1f} min{dollars}"


def _caption(measured: Spent | None, rates: Rates) -> Iterator[str]:
    """What all this rests on."""
    yield "Found with 80% probability; costs are of what comes on top of the planned seeds and items, all rows."
    if measured:
        yield "They are reckoned by what the run before took, training and testing."
    else:
        yield f"They are estimated for one {rates.device.name}, training alone: no run has shown what testing takes."
    if rates.hourly is None:
        yield "With --hourly they are told in dollars too."
    yield f"{NEVER[:1].upper()}{NEVER[1:]}: more of the one alone does not do it, the other stands in the way."
    yield ASSUMPTION
