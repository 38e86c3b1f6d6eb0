"""The rehearsal before a run: one cell of every row goes its whole way on weights that nothing has trained yet."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from esft_bench.harness.commands.machines import Machines
from esft_bench.harness.commands.prepare import Prepared
from esft_bench.harness.commands.watch import Before
from esft_bench.harness.judge import make_judge
from esft_bench.harness.judge.panel import Panel
from esft_bench.harness.plan.overrides import SHIPPED
from esft_bench.harness.progress.display import Display
from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.answer import AnswerStep
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.rehearse import rehearsed
from esft_bench.harness.steps.step import Content, with_needs
from esft_bench.harness.store.artifacts import WORK, Store
from esft_bench.spec.errors import NoSpaceError, UserError
from esft_bench.spec.files import canonical, digest_of_text, read_jsonl, remove, write_jsonl
from esft_bench.spec.judge import JudgeSettings

NOTES = "rehearsed"
"""Where in the store it is noted what has been rehearsed."""


def rehearse(prepared: Prepared, graph: Graph, on: Machines, display: Display) -> None:
    """Rehearse the rows that have trainings left to do, if the suite wants it and it was not done before.

    What it leaves in the store is a note; its adapters are removed. Raises UserError naming a row that fails.
    """
    suite = prepared.plan.suite
    if suite.rehearse == "never" or (suite.rehearse == "auto" and suite.backbone.path == SHIPPED):
        return
    with prepared.store.leases.held("rehearsal"):  # another run may be at it
        failed = _rehearsed(prepared, graph, on, display)
    if failed:
        raise UserError(_refusal(failed, prepared.folder))


def _rehearsed(prepared: Prepared, graph: Graph, on: Machines, display: Display) -> dict[str, str]:
    """Rehearse what is not noted to have gone well; returns the rows that failed and why."""
    place = prepared.store.root / WORK / "rehearsal"
    notes = prepared.store.notes(NOTES)
    left = {step: row for row, step in _rows(prepared, graph, place) if notes.read(_name(step)) is None}
    if not left:
        return {}
    try:
        own = Graph(left, Store(place))
        failed = _walk(own, left, on, display)
        for step in left.keys() & own.finished:
            notes.write(_name(step), {"row": left[step]})
    finally:
        remove(place)
    return failed


def _rows(prepared: Prepared, graph: Graph, place: Path) -> Iterator[tuple[str, AnswerStep]]:
    """The rows with trainings left to do, each with the rehearsal of its first cell; none where nothing is trained."""
    plan = prepared.plan
    rows = {cell.method: None for cell in prepared.chosen if plan.paths[cell].training not in graph.finished}
    if not any(plan.methods[row].trains for row in rows):
        return
    for row in rows:
        path = next(path for cell, path in plan.paths.items() if cell.method == row)
        for answers in list(path.answers.values())[:1]:
            whole = answers.questions.items
            items = place / f"{whole.digest}.jsonl"
            write_jsonl(items, read_jsonl(whole.path)[:1])
            one = replace(answers.questions, items=Content(items, f"the first of {whole.digest}"))
            yield row, replace(answers, name=row, training=rehearsed(answers.training), questions=one)


def _name(step: AnswerStep) -> str:
    """What a rehearsal is noted under: all that decides how it goes."""
    codes = [[each.code.sources(), each.code.versions()] for each in with_needs([step])]
    return digest_of_text(canonical([step.identity, codes]))[:20]


def _walk(graph: Graph, left: Mapping[AnswerStep, str], on: Machines, display: Display) -> dict[str, str]:
    """Walk the rehearsal's graph; returns the rows that failed and why."""
    from esft_bench.harness.training.together.sharding import sharded  # here: torch takes seconds to import

    watcher = Before(display, "rehearsing", "rehearsal · {}")
    executor = on.executor(Panel([make_judge(JudgeSettings())]), False)
    parallelism = on.parallelism if sharded() else replace(on.parallelism, processes=1)
    try:
        failed = Schedule(graph, executor, watcher, parallelism, left).run()
    except NoSpaceError:
        raise
    except UserError as error:  # of an engine that cannot serve at all
        return {row: str(error) for step, row in left.items() if step == watcher.last}
    return {row: failed[step] for step, row in left.items() if step in failed}


def _refusal(failed: Mapping[str, str], folder: Path) -> str:
    row, why = next(iter(failed.items()))
    others = [name for name in failed if name != row]
    more = f" So do {', '.join(others)}." if others else ""
    return (
        f"methods.{row} fails in the rehearsal, before anything is trained: {why.rstrip('.')} (details in "
        f"{folder / 'esft-bench.log'}).{more}"
    )
