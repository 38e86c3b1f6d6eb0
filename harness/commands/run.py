"""Carrying a plan out: check what would fail late, walk the graph, and keep records and report up to date."""

import logging
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from esft_bench.harness import manifest
from esft_bench.harness.commands.endpoints import check_endpoints, remarks
from esft_bench.harness.commands.machines import machines
from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.commands.prepare import Prepared
from esft_bench.harness.commands.rehearsal import rehearse
from esft_bench.harness.commands.tracked import trackers
from esft_bench.harness.commands.unpacking import unpacked
from esft_bench.harness.commands.watch import Watch
from esft_bench.harness.judge.calibrations import carry
from esft_bench.harness.plan.state import state_of
from esft_bench.harness.progress.display import Display
from esft_bench.harness.records.written import Written
from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.step import Step
from esft_bench.harness.store.artifacts import Artifact, DamagedError
from esft_bench.harness.terminal import Terminal
from esft_bench.spec.cell import Cell
from esft_bench.spec.files import full_disk_is_a_sentence
from esft_bench.tasks.sandbox import UNSAFE, require

if TYPE_CHECKING:
    from esft_bench.harness.serving.endpoint import Seen


def execute(prepared: Prepared, options: RunOptions, console: Terminal, command: str) -> dict[Cell, str]:
    """Finish every chosen cell; returns the cells that failed and why. Finished steps are never done again."""
    if options.unsafe_code:
        os.environ[UNSAFE] = "1"
    folder = prepared.folder
    with full_disk_is_a_sentence(folder / "x"):
        folder.mkdir(parents=True, exist_ok=True)
    with full_disk_is_a_sentence(folder / "x"):
        prepared = unpacked(prepared, options, console)
        for note in prepared.notes:
            console.print(f"Note: {note}")
        failures = _Run(prepared, options, console, command).all()
    console.say(f"Report: {folder / 'report.html'} and report.md")
    if prepared.plan.suite.own and not failures:
        console.say(
            f"Weights of the row that it advises: esft-bench export {shlex.quote(str(folder))} --best --to FOLDER"
        )
    if failures:
        console.print(f"{len(failures)} cells failed; the same command tries them again.")
    return failures


class _Run:
    """One run of a plan."""

    def __init__(self, prepared: Prepared, options: RunOptions, console: Terminal, command: str) -> None:
        self.prepared, self.options, self.command = prepared, options, command
        self.plan, self.folder = prepared.plan, prepared.folder
        self.graph = self.plan.graph(prepared.store)
        self.written = Written(self.plan, self.graph, self.folder)
        self.display = Display(self.plan, console, self._states(), self.folder)
        self.watch = Watch(prepared, self.graph, self.written, self.display)

    def all(self) -> dict[Cell, str]:
        """Compute what is missing, then write what is there."""
        wanted = [step for cell in self.prepared.chosen for step in self.plan.paths[cell].last]
        with self.display:
            manifest.restore(self.folder / manifest.FILE, self.prepared.store.news)
            self._say_news()
            if any(step not in self.graph.finished for step in wanted):
                self._compute(wanted)
            elif not manifest.is_of(self.folder / manifest.FILE, self.plan.suite):  # what it asks for is there already
                self._write_manifest(finished=True)
            with self.written.alone():
                self._write()
            self._say_news()
            self.prepared.store.keep_looks(self.graph.artifacts.values())
        return self.watch.failures

    def _write(self) -> None:
        """Write what is there into the run's folder."""
        rubrics = {name: task.rubric for name, task in self.plan.tasks.items() if task.rubric}
        carry(rubrics, self.prepared.judges.first, self.folder)
        if self.options.keep_checkpoints:
            self._keep_checkpoints()
        self.written.refresh(self.watch.failures)

    def _say_news(self) -> None:
        """Say what was found damaged."""
        news = self.prepared.store.news
        while news:
            self.display.say(news.pop(0))

    def _compute(self, wanted: list[Step]) -> None:
        tracked = trackers(self.options.track, self.folder)
        self._check()
        said = remarks(self._endpoints(wanted))
        _log_to_file(self.folder / "esft-bench.log")
        with machines(self.prepared, self.graph, self.options) as found:
            for note in (*said, *found.notes):
                self.display.say(note)
            if not said:
                rehearse(self.prepared, self.graph, found, self.display)
            self._write_manifest(finished=False)
            self.display.begin(self.graph.to_come(wanted))
            executor = found.executor(self.prepared.judges, self.plan.suite.judge.batch)
            parallelism = replace(found.parallelism, trackers=tracked)
            Schedule(self.graph, executor, self.watch, parallelism, wanted).run()
            self._write_manifest(finished=True)

    def _check(self) -> None:
        """Refuse now, before hours of training, a port in use and generated code that nothing would contain."""
        missing = {
            name
            for cell in self.prepared.chosen
            for name, step in self.plan.paths[cell].answers.items()
            if step not in self.graph.finished
        }
        evaluation = self.plan.suite.evaluation
        if missing and evaluation.engine == "vllm" and evaluation.port is not None:
            from esft_bench.harness.serving.server import choose_port

            choose_port(evaluation.port)
        if any(self.plan.tasks[name].runs_code for name in missing | self._scored_on_the_way()):
            require()

    def _endpoints(self, wanted: list[Step]) -> "Sequence[Seen]":
        """Others' servers, where they will be asked, each looked at and found good."""
        left = [step for step in self.graph.with_needs(wanted) if step not in self.graph.finished]
        asked = self.plan.engine.external and any(step.resources.holds == "engine" for step in left)
        return check_endpoints(self.plan, self.prepared.store) if asked else []

    def _scored_on_the_way(self) -> set[str]:
        """What trainings that are still to be done are scored on while they go on."""
        trainings = {step for cell in self.prepared.chosen for step in self.plan.paths[cell].training.whole}
        return {benchmark.name for step in trainings - self.graph.finished for benchmark, _ in step.looks.benchmarks}

    def _states(self) -> dict[Cell, str]:
        return {cell: state_of(path, self.graph) for cell, path in self.plan.paths.items()}

    def _write_manifest(self, *, finished: bool) -> None:
        states: dict[str, int] = {}
        for cell, state in self._states().items():
            state = "failed" if cell in self.watch.failures else state
            states[state] = states.get(state, 0) + 1
        manifest.write(
            self.folder / manifest.FILE,
            self.plan.suite,
            command=self.command,
            notes=self._notes(),
            states=states,
            engine=self.plan.engine.name,
            judge=self.plan.judge,
            benchmarks={task: list(self.plan.matrix.tested_on(task)) for task in self.plan.suite.tasks},
            digests=self.plan.digests(),
            **({"finished": manifest.now()} if finished else {}),
        )

    def _notes(self) -> list[str]:
        """What the report must say: of the suite, of the judge, and of what steps met."""
        return list(dict.fromkeys([*self.watch.notes, *self.graph.notes]))

    def _keep_checkpoints(self) -> None:
        """Keep the merged checkpoint of every finished chosen cell in the run's folder."""
        from esft_bench.harness.merging import merged

        for cell in self.prepared.chosen:
            path = self.plan.paths[cell]
            kept = self.folder / "checkpoints" / cell.file_name
            if path.training not in self.graph.finished or kept.exists():
                continue
            trained = [self.graph.artifacts[step] for step in path.training.ends_with]
            if not all(self._is_sound(artifact) for artifact in trained):
                continue
            kept.parent.mkdir(parents=True, exist_ok=True)
            with merged(
                self.plan.backbone.path, [each.folder for each in trained], kept.parent / f".{kept.name}"
            ) as checkpoint:
                shutil.move(checkpoint, kept)

    def _is_sound(self, artifact: Artifact) -> bool:
        """Whether an artifact is what was written; where it is not, the next run makes it again."""
        try:
            self.prepared.store.check(artifact)
        except DamagedError:
            return False
        return True


def _log_to_file(log: Path) -> None:
    """Send what libraries have to say to the run's log instead of the terminal."""
    with full_disk_is_a_sentence(log):
        logging.basicConfig(filename=log, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", force=True)
