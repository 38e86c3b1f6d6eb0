"""What a run knows about its routers and chosen experts, collected from its artifacts into `routing.json`."""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.harness.keys import AFTER, SECOND
from esft_bench.harness.plan import Cell, Plan
from esft_bench.harness.stages import Profiling
from esft_bench.harness.store import Artifact
from esft_bench.methods.moe.layout import CONFIG, read_config
from esft_bench.methods.moe.profile import FILE, Profile
from esft_bench.methods.moe.routing import shift
from esft_bench.methods.moe.scores import Score, expert_scores
from esft_bench.spec import routing
from esft_bench.spec.routing import Grid, Routing, Selection, Shift, TaskProfile


def collect(plan: Plan) -> Routing | None:
    """Profiles, selections and shifts of everything finished; None while there is no profile of any task."""
    found = {task: artifact for task in _profiled(plan) if (artifact := plan.keys.find(Profiling(task)))}
    if not found:
        return None
    one = Profile.load(next(iter(found.values())).folder)
    trained = [(cell, made) for cell in plan.cells if cell.task and (made := plan.trained(cell))]
    return Routing(
        backbone=plan.suite.backbone.path,
        layers=list(one.layers),
        num_experts=one.num_experts,
        top_k=one.top_k,
        profiles=[profile for task, artifact in found.items() for profile in _profiles(plan, task, artifact.folder)],
        selections=[
            _selection(plan, cell, made) for cell, made in trained if (made.folder / "adapter" / CONFIG).exists()
        ],
        shifts=[
            _shift(plan, cell, found[cell.task], made)
            for cell, made in trained
            if cell.task in found and not cell.after and (made.folder / AFTER / FILE).exists()
        ],
    )


def write(plan: Plan, folder: Path) -> None:
    """Write `routing.json` of a run into its folder, once there is anything to say."""
    found = collect(plan)
    if found is not None:
        routing.write(found, folder)


def _profiled(plan: Plan) -> list[str]:
    """The tasks that methods may have had profiled: what is trained on, and the general data."""
    return [*plan.suite.tasks, *([plan.suite.alignment] if plan.suite.alignment else [])]


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


def _selection(plan: Plan, cell: Cell, made: Artifact) -> Selection:
    return Selection(**_about(plan, cell), experts=read_config(made.folder / "adapter").experts)


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
