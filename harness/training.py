"""The training half of a run: profiles, then cells, side by side in worker processes."""

import shutil
from pathlib import Path

from harness.cells import Places
from harness.errors import UserError
from harness.plan import Cell, Plan
from harness.walk import Walk, failed
from harness.workers import Job, Outcome, Workers


def train_all(walk: Walk, cells: list[Cell]) -> None:
    """Profile and train what is missing, as many at a time as there are workers."""
    waiting: list[Cell | str] = [cell for cell in cells if walk.plan.trained(cell) is None]
    profiled = [cell.task for cell in waiting if isinstance(cell, Cell) and _needs_profile(walk.plan, cell)]
    missing = [task for task in dict.fromkeys(profiled) if walk.plan.profile_of(task) is None]
    waiting = [*missing, *waiting]
    if not waiting:
        return
    walk.display.enter_phase("training")
    workers = Workers(walk.transport.workers, walk.log)
    running: dict[str, tuple[Cell | str, Path]] = {}
    try:
        while waiting or workers.busy:
            ready = _startable(walk.plan, waiting) if workers.free else []
            for step in ready[: workers.free]:
                waiting.remove(step)
                job, built = _job(walk, step)
                running[job.name] = (step, built)
                workers.start(job)
                walk.display.step(job.name)
                if isinstance(step, Cell):
                    walk.display.cell(step, "training")
            for outcome in workers.wait(lambda job, done, total: walk.display.step(job.name, done, total)):
                walk.display.step_ended(outcome.job.name)
                _training_ended(walk, outcome, *running.pop(outcome.job.name), waiting)
    finally:
        workers.stop()


def _needs_profile(plan: Plan, cell: Cell) -> bool:
    return plan.methods[cell.method].needs_profile


def _startable(plan: Plan, waiting: list[Cell | str]) -> list[Cell | str]:
    """The waiting steps whose inputs are there: profiles always, cells once their profile is."""
    return [
        step
        for step in waiting
        if isinstance(step, str) or not _needs_profile(plan, step) or plan.profile_of(step.task) is not None
    ]


def _job(walk: Walk, step: Cell | str) -> tuple[Job, Path]:
    """The job of a profile (a task's name) or of a cell's training, and the folder it builds in."""
    plan, store = walk.plan, walk.plan.store
    if isinstance(step, str):
        kind, name, key, settings = "profile", f"profile · {step}", plan.profile_key(step), plan.profile_settings()
        task, profile = step, None
    else:
        trained = plan.train_key(step)
        assert trained is not None
        kind, name, key, settings = "train", step.label, trained, plan.train_settings(step)
        task = plan.task_of(step)
        profile = plan.profile_of(step.task) if _needs_profile(plan, step) else None
    built = store.begin(kind, key)
    places = Places(
        backbone=plan.backbone,
        out=built,
        scratch=store.scratch(key),
        task=plan.data[task].training,
        alignment=plan.data[plan.suite.alignment].training if plan.suite.alignment else None,
        profile=profile.folder if profile else None,
        threads=walk.transport.threads,
        micro_batch=walk.transport.micro_batch,
    )
    return Job(name, f"harness.cells:{kind}_step", places, settings), built


def _training_ended(walk: Walk, outcome: Outcome, step: Cell | str, built: Path, waiting: list[Cell | str]) -> None:
    """Keep what a job made, or note that it failed, with every cell that waited for it."""
    if not outcome.error:
        kind = "profile" if isinstance(step, str) else "train"
        key = walk.plan.profile_key(step) if isinstance(step, str) else walk.plan.train_key(step)
        assert key is not None
        walk.plan.store.finish(kind, key, built, outcome.job.settings, outcome.measured)
        if isinstance(step, Cell):
            walk.display.cell(step, "trained")
        return
    shutil.rmtree(built, ignore_errors=True)
    if outcome.fatal:
        raise UserError(outcome.error)
    lost = [step] if isinstance(step, Cell) else [c for c in waiting if isinstance(c, Cell) and _lost(walk, c, step)]
    for cell in lost:
        failed(walk, cell, outcome.error)
        if cell in waiting:
            waiting.remove(cell)


def _lost(walk: Walk, cell: Cell, task: str) -> bool:
    """Whether a cell waits for the profile of `task`."""
    return cell.task == task and _needs_profile(walk.plan, cell)
