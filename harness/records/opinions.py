"""What a run's second judge and its probes said, from their artifacts into `opinions.jsonl`."""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.records.scores import read_scores
from esft_bench.harness.steps.graph import Graph
from esft_bench.spec import opinions
from esft_bench.spec.opinions import Opinions


def collect(plan: Plan, graph: Graph) -> Iterator[Opinions]:
    """For each cell and judged benchmark what is finished, beside the scores that the tables show."""
    for cell, path in plan.paths.items():
        for benchmark, steps in path.opinions.items():
            shown = graph.artifacts.get(path.scores[benchmark])
            for kind, step in steps.items():
                artifact = graph.artifacts.get(step)
                if shown is None or artifact is None:
                    continue
                first = {item.id: item.score for item in read_scores(shown)}
                further = read_scores(artifact)
                yield Opinions(
                    method=cell.method,
                    task=cell.task,
                    seed=cell.seed,
                    benchmark=benchmark,
                    benchmark_title=plan.tasks[benchmark].title,
                    kind=kind,
                    judge=step.judge[0],
                    beside=plan.judge,
                    scores=[
                        (item.id, 100 * score, 100 * item.score)
                        for item in further
                        if item.score is not None and (score := first.get(item.id)) is not None
                    ],
                    asked=len(further),
                )


def write(plan: Plan, graph: Graph, folder: Path) -> None:
    """Write the opinions into a run's folder."""
    opinions.write(collect(plan, graph), folder)
