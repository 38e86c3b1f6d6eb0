"""The training half of a run: profiles and trainings, each as soon as what it needs is there, side by side."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from esft_bench.harness.cells import Places
from esft_bench.harness.plan import Cell, Plan
from esft_bench.harness.stages import Profiling, Step
from esft_bench.harness.walk import Walk, failed
from esft_bench.harness.workers import Job, Outcome, Workers
from esft_bench.spec.errors import UserError


@dataclass
class Work:
    """What is still to be computed. `cells` are those that want a step, by its place in `steps`."""

    steps: list[Step] = field(default_factory=list)
    cells: list[list[Cell]] = field(default_factory=list)

    def add(self, plan: Plan, step: Step, cell: Cell) -> None:
        """Add a step and what it needs, the latter first, unless they are finished."""
        if plan.keys.find(step) is not None:
            return
        for need in step.needs:
            self.add(plan, need, cell)
        if step not in self.steps:
            self.steps.append(step)
            self.cells.append([])
        wanting = self.cells[self.steps.index(step)]
        if cell not in wanting:
            wanting.append(cell)

    def take(self, step: Step) -> list[Cell]:
        """Remove a step; returns the cells that want it."""
        place = self.steps.index(step)
        del self.steps[place]
        return self.cells.pop(place)


def train_all(walk: Walk, cells: list[Cell]) -> None:
    """Profile and train what is missing, as many at a time as there are workers."""
    work = Work()
    for cell in cells:
        work.add(walk.plan, walk.plan.stage(cell), cell)
    if not work.steps:
        return
    walk.display.enter_phase("training")
    workers = Workers(walk.transport.workers, walk.log)
    running: dict[str, tuple[Step, list[Cell], Path]] = {}
    try:
        while work.steps or workers.busy:
            ready = [step for step in work.steps if walk.plan.keys.key(step)] if workers.free else []
            for step in ready[: workers.free]:
                wanting = work.take(step)
                job, built = _job(walk, step, wanting[0])
                running[job.name] = (step, wanting, built)
                workers.start(job)
                walk.display.step(job.name)
                for cell in _ending(walk.plan, step, wanting):
                    walk.display.cell(cell, "training")
            for outcome in workers.wait(lambda job, done, total: walk.display.step(job.name, done, total)):
                walk.display.step_ended(outcome.job.name)
                _ended(walk, outcome, *running.pop(outcome.job.name), work)
    finally:
        workers.stop()


def _ending(plan: Plan, step: Step, cells: list[Cell]) -> list[Cell]:
    """The cells whose last training a step is."""
    return [cell for cell in cells if plan.stage(cell) == step]


def _name(plan: Plan, step: Step, cell: Cell) -> str:
    """How the display names a step that `cell` wants; no two steps at work have one name."""
    if isinstance(step, Profiling):
        return f"profile · {step.task}" if step.model is None else f"{cell.label}, profile · {step.task}"
    stages = plan.stage(cell).whole
    return cell.label if step == stages[-1] else f"{cell.label}, stage {stages.index(step) + 1}"


def _job(walk: Walk, step: Step, cell: Cell) -> tuple[Job, Path]:
    """The job of a step that `cell` wants, and the folder it builds in."""
    plan, keys = walk.plan, walk.plan.keys
    kind, key = keys.kind(step), keys.key(step)
    assert key is not None
    built = plan.store.begin(kind, key)
    alignment = plan.suite.alignment
    places = Places(
        backbone=plan.backbone,
        changes=keys.changes(step.origin),
        out=built,
        scratch=plan.store.scratch(key),
        tasks=[path for task in step.tasks if (path := plan.data[task].training)],
        alignment=plan.data[alignment].training if alignment else None,
        profiles=_folders(plan, [] if isinstance(step, Profiling) else step.profiles),
        general=next(iter(_folders(plan, [] if isinstance(step, Profiling) else step.general_profiles)), None),
        threads=walk.transport.threads,
        micro_batch=walk.transport.micro_batch,
        processes=walk.transport.processes,
    )
    return Job(_name(plan, step, cell), f"esft_bench.harness.cells:{kind}_step", places, keys.settings(step)), built


def _folders(plan: Plan, profiles: list[Profiling]) -> list[Path]:
    """Where finished profiles lie."""
    return [made.folder for profile in profiles if (made := plan.keys.find(profile)) is not None]


def _ended(walk: Walk, outcome: Outcome, step: Step, cells: list[Cell], built: Path, work: Work) -> None:
    """Keep what a job made, or note that it failed, with every cell that waited for it."""
    if not outcome.error:
        kind, key = walk.plan.keys.kind(step), walk.plan.keys.key(step)
        assert key is not None
        walk.plan.store.finish(kind, key, built, outcome.job.settings, outcome.measured)
        for cell in _ending(walk.plan, step, cells):
            walk.display.cell(cell, "trained")
        return
    shutil.rmtree(built, ignore_errors=True)
    if outcome.fatal:
        raise UserError(outcome.error)
    for cell in cells:
        failed(walk, cell, outcome.error)
    for waiting in [other for other in work.steps if _rests_on(other, step)]:
        work.take(waiting)


def _rests_on(step: Step, other: Step) -> bool:
    """Whether a step needs another one, however far back."""
    return any(need == other or _rests_on(need, other) for need in step.needs)
