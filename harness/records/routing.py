"""What a run knows about its routers and chosen experts, collected from its artifacts into `routing.json`."""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.harness.plan.paths import CellPath
from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.artifacts import Artifact
from esft_bench.harness.store.names import ADAPTER, AFTER, SECOND
from esft_bench.methods.esft import ThresholdSelection
from esft_bench.methods.moe.layout import CONFIG, read_config
from esft_bench.methods.moe.profile import FILE, Profile
from esft_bench.methods.moe.routing import consistency, cumulated_advantage, shift
from esft_bench.methods.moe.routing_record import (
    KINDS,
    beside_own,
    concentration_of,
    experts_over_cells,
    overlaps_of,
    shifts_over_cells,
)
from esft_bench.methods.moe.scores import Score, expert_scores
from esft_bench.spec import routing
from esft_bench.spec.cell import Cell
from esft_bench.spec.routing import GivenSelection, Grid, Routing, SelectedExperts, Shift, TaskProfile


def collect(plan: Plan, graph: Graph) -> Routing | None:
    """Profiles, selections and shifts of everything finished; None while there is no profile of any task."""
    found = {task: graph.artifacts[step] for task, step in plan.profiles.items() if step in graph.artifacts}
    if not found:
        return None
    seen = {task: _samples(artifact.folder) for task, artifact in found.items()}
    one = next(iter(seen.values()))[0]
    general = seen.get(plan.suite.alignment or "")
    of_rows = [path for path in plan.paths.values() if path.cell.task and path.cell.is_row]
    paths = [path for path in of_rows if path.training in graph.artifacts]
    trained = [(path.cell, graph.artifacts[path.training]) for path in paths]
    selections = [_selection(plan, cell, made) for cell, made in trained if (made.folder / ADAPTER / CONFIG).exists()]
    shifts = [
        _shift(plan, cell, made, seen[cell.task][0], general[0] if general else None)
        for cell, made in trained
        if cell.task in seen and not cell.after and (made.folder / AFTER / FILE).exists()
    ]
    return Routing(
        backbone=plan.suite.backbone.path,
        layers=list(one.layers),
        num_experts=one.num_experts,
        top_k=one.top_k,
        profiles=[profile for task, samples in seen.items() for profile in _profiles(plan, task, samples)],
        concentrations=[
            concentration_of(task, plan.tasks[task].title, samples[0], kind)
            for task, samples in seen.items()
            for kind in KINDS
        ],
        overlaps=list(overlaps_of(seen)),
        selections=selections,
        given=[one for path in of_rows for one in _given(plan, path, seen.get(path.cell.task))],
        shifts=shifts,
        over_cells=[*experts_over_cells(selections, one.layers), *shifts_over_cells(shifts)],
    )


def write(plan: Plan, graph: Graph, folder: Path) -> None:
    """Write `routing.json` of a run into its folder, once there is anything to say."""
    found = collect(plan, graph)
    if found is not None:
        routing.write(found, folder)


def _samples(folder: Path) -> list[Profile]:
    """The profiles of a task's samples; the second one is missing where the data did not suffice for it."""
    return [Profile.load(place) for place in (folder, folder / SECOND) if (place / FILE).exists()]


def _profiles(plan: Plan, task: str, samples: list[Profile]) -> Iterator[TaskProfile]:
    for sample, seen in enumerate(samples):
        grids = {kind: _grid(seen, kind) for kind in KINDS}
        yield TaskProfile(task=task, title=plan.tasks[task].title, sample=sample, **grids)


def _grid(seen: Profile, score: Score) -> Grid:
    """An expert's scores, pooled over tokens and rounded as the published ones are, by layer."""
    grid: Grid = expert_scores(seen, score, "released").values.tolist()
    return grid


def _selection(plan: Plan, cell: Cell, made: Artifact) -> SelectedExperts:
    return SelectedExperts(**_about(plan, cell), experts=read_config(made.folder / ADAPTER).experts)


def _given(plan: Plan, path: CellPath, samples: list[Profile] | None) -> Iterator[GivenSelection]:
    """The selection that a cell was given, beside its own choice from a profile; once for all seeds."""
    method, cell = path.training.method, path.cell
    if not isinstance(method, ThresholdSelection) or not samples or cell.seed != plan.suite.seeds[0]:
        return
    if isinstance(method.selection, dict):
        told = beside_own(method.selection, method.own_choice(samples[0]), method.scores_of(samples[0]))
        yield GivenSelection(**_about(plan, cell), **told)


def _shift(plan: Plan, cell: Cell, made: Artifact, before: Profile, general: Profile | None) -> Shift:
    after = Profile.load(made.folder / AFTER)
    told = before.router_sums is not None and after.router_sums is not None
    advantage = None
    if told and general:
        advantage = tuple(float(cumulated_advantage(seen, general, seen.top_k).sum()) for seen in (before, after))
    return Shift(
        **_about(plan, cell),
        distance=shift(before, after).tolist(),
        consistency=consistency(before, after).tolist() if told else None,
        gate=_grid(after, "gate"),
        advantage=advantage,
    )


def _about(plan: Plan, cell: Cell) -> dict[str, object]:
    return {
        "method": cell.method,
        "method_title": plan.suite.title(cell.method),
        "task": cell.task,
        "seed": cell.seed,
    }
