"""Walking the plan: train what is missing, serve and test it, judge it, and keep the report up to date.

Training comes first and serving after it, so that on one accelerator the two never hold it together.
"""

from esft_bench.harness import manifest
from esft_bench.harness.plan import Cell, Plan
from esft_bench.harness.walk import Walk, refresh
from esft_bench.spec.files import full_disk_is_a_sentence
from esft_bench.tasks.sandbox import require


def run(walk: Walk) -> dict[Cell, str]:
    """Finish every chosen cell; returns the cells that failed and why. Finished steps are never done again."""
    with full_disk_is_a_sentence(walk.folder / "x"):
        walk.folder.mkdir(parents=True, exist_ok=True)
    with walk.display:
        work = [cell for cell in walk.plan.chosen_cells if walk.plan.state(cell) != "done"]
        if work:
            from esft_bench.harness.answer_all import (
                answer_all,  # here: they bring lm-eval and the server along, seconds of imports
            )
            from esft_bench.harness.train_all import train_all

            _check_port(walk)
            _check_sandbox(walk, work)
            _write_manifest(walk, finished=False)
            train_all(walk, work)
            answer_all(walk, [cell for cell in work if cell not in walk.failures])
            _write_manifest(walk, finished=True)
        refresh(walk)
    return walk.failures


def _check_port(walk: Walk) -> None:
    """Refuse a port that is in use now, before hours of training, rather than when the server starts."""
    from esft_bench.harness.serving.server import choose_port

    if walk.plan.suite.evaluation.engine == "vllm":
        choose_port(walk.plan.suite.evaluation.port)


def _check_sandbox(walk: Walk, work: list[Cell]) -> None:
    """Refuse generated code that nothing would contain, before hours of training, rather than when it is tested."""
    plan = walk.plan
    if any(plan.tasks[name].runs_code for cell in work for name in plan.benchmarks(cell)):
        require()


def _write_manifest(walk: Walk, *, finished: bool) -> None:
    states: dict[str, int] = {}
    for cell in walk.plan.cells:
        state = "failed" if cell in walk.failures else walk.plan.state(cell)
        states[state] = states.get(state, 0) + 1
    ended = {"finished": manifest.now()} if finished else {}
    manifest.write(
        walk.folder / "manifest.json",
        walk.plan.suite,
        command=walk.command,
        notes=walk.notes,
        states=states,
        engine=walk.plan.engine,
        judge=walk.plan.judge,
        benchmarks={task: list(walk.plan.tested_on(task)) for task in walk.plan.suite.tasks},
        digests=_digests(walk.plan),
        **ended,
    )


def _digests(plan: Plan) -> dict[str, str]:
    """Of the contents a run read: the backbone's checkpoint, and each task's rows."""
    rows = {
        f"{name}, {part}": digest
        for name, data in plan.data.items()
        for part, digest in (("training", data.training_digest), ("items", data.items_digest))
        if digest
    }
    return {"backbone": plan.keys.backbone_digest, **rows}
