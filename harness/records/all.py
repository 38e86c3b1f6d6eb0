"""All that a run's folder holds besides its manifest and log."""

from collections.abc import Mapping
from pathlib import Path

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.records import curves, routing
from esft_bench.harness.records.scores import collect
from esft_bench.harness.steps.graph import Graph
from esft_bench.reports.forms import write_reports
from esft_bench.spec import results
from esft_bench.spec.cell import Cell


def write_all(plan: Plan, graph: Graph, folder: Path, failures: Mapping[Cell, str], *, draw: bool) -> None:
    """Write results, routing, curves and report from what is finished; figures only where asked for: they take time."""
    results.write(collect(plan, graph, folder, failures), folder)
    routing.write(plan, graph, folder)
    curves.write(plan, graph, folder)
    write_reports(folder, draw=draw)
