"""Plans of small suites, and steps of theirs that are finished without being run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from esft_bench.harness.commands.options import SuiteOptions
from esft_bench.harness.commands.prepare import Prepared, prepare
from esft_bench.harness.schedule import manifest_of
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.question import QuestionStep
from esft_bench.harness.steps.step import Step
from esft_bench.harness.store.artifacts import Artifact
from esft_bench.spec.files import made_folder


def prepared(folder: Path, text: str, **options: Any) -> Prepared:
    """A suite of that text, planned; everything lies in one folder."""
    path = folder / "suite.yaml"
    path.write_text(text)
    return prepare(SuiteOptions(str(path), run_dir=folder / "runs", **options))


def graph_of(made: Prepared) -> Graph:
    """The plan's graph, with what is in the store now."""
    return made.plan.graph(made.store)


def finish(made: Prepared, step: Step, fill: Callable[[Path], object] | None = None, **measured: Any) -> Artifact:
    """A step's artifact, put there without running it; all that it needs is there, but perhaps for questions."""
    for need in step.needs.values():
        if isinstance(need, QuestionStep) and need not in graph_of(made).artifacts:
            finish(made, need)
    graph = graph_of(made)
    key = graph.key(step)
    built = made_folder(made.store.begin(step.kind, key))
    if fill is None:
        (built / "content").write_text(key)
    else:
        fill(built)
    return made.store.finish(built, manifest_of(step, key, graph.inputs(step), measured))
