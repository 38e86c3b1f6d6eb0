"""All that a report is made of besides the manifest: results, routing, curves, opinions and what tuning tried."""

from collections.abc import Mapping
from pathlib import Path

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.records import curves, opinions, routing, tuning
from esft_bench.harness.records.scores import collect
from esft_bench.harness.steps.graph import Graph
from esft_bench.spec import results
from esft_bench.spec.cell import Cell


def write_records(plan: Plan, graph: Graph, folder: Path, failures: Mapping[Cell, str], *, copies: bool = True) -> None:
    """Write what is known from finished steps into a run's folder; `copies`: with the results in other formats."""
    write = results.write if copies else results.write_lines
    write(collect(plan, graph, folder, failures), folder)
    routing.write(plan, graph, folder)
    curves.write(plan, graph, folder)
    opinions.write(plan, graph, folder)
    tuning.write(plan, graph, folder)
