"""How far each cell has come."""

from typing import Literal

from esft_bench.harness.plan.paths import CellPath
from esft_bench.harness.steps.graph import Graph

State = Literal["to do", "trained", "answered", "done"]


def state_of(path: CellPath, graph: Graph) -> State:
    """How far a cell has come on its path."""
    if path.training not in graph.finished:
        return "to do"
    if any(step not in graph.finished for step in path.answers.values()):
        return "trained"
    last = [*path.scores.values(), *path.repeats.values()]
    return "done" if all(step in graph.finished for step in last) else "answered"
