"""What a run knows about its routers and chosen experts, collected from its artifacts into `routing.json`."""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.artifacts import Artifact
from esft_bench.harness.store.names import ADAPTER, AFTER, SECOND
from esft_bench.methods.moe.layout import CONFIG, read_config
from esft_bench.methods.moe.profile import FILE, Profile
from esft_bench.methods.moe.routing import shift
from esft_bench.methods.moe.scores import Score, expert_scores
from esft_bench.spec import routing
from esft_bench.spec.cell import Cell
from esft_bench.spec.routing import Grid, Routing, SelectedExperts, Shift, TaskProfile


def collect(plan: Plan, graph: Graph) -> Routing | None:
    """Profiles, selections and shifts of everything finished; None while there is no profile of any task."""
    found = {task: graph.artifacts[step] for task, step in plan.profiles.items() if step in graph.artifacts}
    if not found:
        return None
    one = Profile.load(next(iter(found.values())).folder)
    paths = [path for path in plan.paths.values() if path.cell.task and path.training in graph.artifacts]
    trained = [(path.cell, graph.artifacts[path.training]) for path in paths]
    return Routing(
        backbone=plan.suite.backbone.path,
        layers=list(one.layers),
        num_experts=one.num_experts,
        top_k=one.top_k,
        profiles=[profile for task, artifact in found.items() for profile in _profiles(plan, task, artifact.folder)],
        selections=[
            _selection(plan, cell, made) for cell, made in trained if (made.folder / ADAPTER / CONFIG).exists()
        ],
        shifts=[
            _shift(plan, cell, found[cell.task], made)
            for cell, made in trained
            if cell.task in found and not cell.after and (made.folder / AFTER / FILE).exists()
        ],
    )


def write(plan: Plan, graph: Graph, folder: Path) -> None:
    """Write `routing.json` of a run into its folder, once there is anything to say."""
    found = collect(plan, graph)
    if found is not None:
        routing.write(found, folder)


def _profiles(plan: Plan, task: str, folder: Path) -> Iterator[TaskProfile]:
    """The profiles of a task's samples; the second one is missing where the data did not suffice for it."""
    for sample, place in enumerate((folder, folder / SECOND)):
        if (place / FILE).exists():
            seen = Profile.load(place)
            yield TaskProfile(
                task=task,
                title=plan.tasks[task].title,
                sample=sample,
                gate=_grid(seen, "gate"),
                token=_grid(seen, "token"),
            )


def _grid(seen: Profile, score: Score) -> Grid:
    """An expert's scores, pooled over tokens and rounded as the published ones are, by layer."""
    grid: Grid = expert_scores(seen, score, "released").values.tolist()
    return grid


def _selection(plan: Plan, cell: Cell, made: Artifact) -> SelectedExperts:
    return SelectedExperts(**_about(plan, cell), experts=read_config(made.folder / ADAPTER).experts)


def _shift(plan: Plan, cell: Cell, before: Artifact, made: Artifact) -> Shift:
    after = Profile.load(made.folder / AFTER)
    distance = shift(Profile.load(before.folder), after).tolist()
    return Shift(**_about(plan, cell), distance=distance, gate=_grid(after, "gate"))


def _about(plan: Plan, cell: Cell) -> dict[str, object]:
    return {
        "method": cell.method,
        "method_title": plan.suite.title(cell.method),
        "task": cell.task,
        "seed": cell.seed,
    }
