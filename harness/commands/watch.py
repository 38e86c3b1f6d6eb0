"""Following a run: from what happens to steps to what is said of cells."""

from collections import defaultdict
from collections.abc import Iterator

from esft_bench.harness.commands.prepare import Prepared
from esft_bench.harness.plan.paths import CellPath
from esft_bench.harness.plan.state import state_of
from esft_bench.harness.progress.display import Display
from esft_bench.harness.records.scores import mean_score, read_scores
from esft_bench.harness.records.written import Written
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.judge import REASONS
from esft_bench.harness.steps.step import Step, with_needs
from esft_bench.harness.store.artifacts import Artifact
from esft_bench.spec.cell import Cell
from esft_bench.spec.record import UNITS

PHASES = {"process": "training", "engine": "testing"}
"""What a run is at, by what the steps that begin hold."""


class Watch:
    """Keeps display, notes, failures and the growing report in step with the schedule."""

    def __init__(self, prepared: Prepared, graph: Graph, written: Written, display: Display) -> None:
        self._graph, self._written, self._display, self._judges = graph, written, display, prepared.judges
        self._plan = prepared.plan
        self._paths: defaultdict[Step, list[CellPath]] = defaultdict(list)
        for cell in prepared.chosen:
            for step in with_needs(self._plan.paths[cell].last):
                self._paths[step].append(self._plan.paths[cell])
        self._at_work: set[Step] = set()
        self.notes = list(prepared.notes)
        self.failures: dict[Cell, str] = {}

    def started(self, step: Step) -> None:
        """Show a step at work, and what it is for its cells."""
        self._display.step(step.label)
        self._display.pace.started(step.kind)
        self._at_work.add(step)
        self._display.enter_phase(PHASES.get(step.resources.holds, self._display.phase))
        for path in self._paths[step]:
            if step == path.training:
                self._display.cell(path.cell, "training")
            elif step in path.answers.values():
                self._display.cell(path.cell, "testing")

    def progressed(self, step: Step, done: int, total: int) -> None:
        """Show how far a step is."""
        self._display.step(step.label, done, total)

    def finished(self, step: Step, artifact: Artifact) -> None:
        """Move the step's cells on; say so of those that are at their end."""
        self._over(step)
        for text in [*artifact.measured.get("damaged", []), *artifact.measured.get("said", [])]:
            self.noted(text)
        self.notes += [note for note in self._judges.notes if note not in self.notes]
        for path in self._paths[step]:
            if path.cell in self.failures:
                continue
            state = state_of(path, self._graph)
            if state == "done":
                self._done(path)
            elif all(each in self._graph.artifacts for each in path.scores.values()):
                self._unjudged(path)
            elif step == path.training:
                self._display.cell(path.cell, state)

    def failed(self, step: Step, why: str) -> None:
        """Note that the step's cells failed; the run goes on with the others."""
        self._over(step, well=False)
        for path in self._paths[step]:
            self._fail(path.cell, why)

    def noted(self, text: str) -> None:
        """Say a sentence."""
        self._display.say(text)

    def _over(self, step: Step, *, well: bool = True) -> None:
        """A step is over, or, where what it rests on failed, never began."""
        self._display.step_ended(step.label)
        if step not in self._at_work:
            self._display.pace.started(step.kind)
        self._at_work.discard(step)
        self._display.pace.ended(step.kind, well=well)

    def _fail(self, cell: Cell, why: str) -> None:
        if cell in self.failures:
            return
        self.failures[cell] = why
        self._display.cell(cell, "failed")
        self._display.say(f"✗ {cell.label}: {why} (details in {self._written.folder / 'esft-bench.log'})")

    def _done(self, path: CellPath) -> None:
        own = self._mean(path, self._plan.matrix.own(path.cell))
        self._display.cell(path.cell, "done", own)
        self._display.say(f"✓ {path.cell.label}: {', '.join([_shown(own), *self._kept(path)])}")
        self._written.refresh_now_and_then(self.failures)

    def _kept(self, path: CellPath) -> Iterator[str]:
        """What is left of a cell's general ability; how far it has moved, where only that is measured."""
        suite = self._plan.suite
        if suite.general:
            yield f"general ability {_shown(self._mean(path, suite.general))}"
            return
        for name in suite.drift:
            task, value = self._plan.tasks[name], self._mean(path, [name], 1.0)
            yield f"{task.title} {_shown(value, 3)} {UNITS.get(task.metric, 'bits')}"

    def _unjudged(self, path: CellPath) -> None:
        """A cell whose answers the judge could not all be asked about."""
        measured = [self._graph.artifacts[step].measured for step in path.scores.values()]
        count = sum(each.get("failed", 0) for each in measured)
        reasons = list(dict.fromkeys(why for each in measured for why in each.get("why", [])))[:REASONS]
        self._fail(path.cell, f"{count} answers could not be judged ({'; '.join(reasons)}); the others are kept")

    def _mean(self, path: CellPath, names: list[str], scale: float = 100.0) -> float | None:
        """Mean score over some of a cell's benchmarks, in per cent unless another `scale` is given."""
        values = [mean_score(read_scores(self._graph.artifacts[path.scores[name]]), scale)[0] for name in names]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


class Before:
    """Shows a walk that comes before the run's own: its `phase`, and its steps by a name made of their labels.

    `last` is the step that began last.
    """

    def __init__(self, display: Display, phase: str, name: str) -> None:
        self._display, self._phase, self._name = display, phase, name
        self.last: Step | None = None

    def started(self, step: Step) -> None:
        """Show a step at work."""
        self.last = step
        self._display.enter_phase(self._phase)
        self.progressed(step, 0, 0)

    def progressed(self, step: Step, done: int, total: int) -> None:
        """Show how far it is."""
        self._display.step(self._name.format(step.label), done, total)

    def finished(self, step: Step, artifact: Artifact) -> None:
        """It is over."""
        self._display.step_ended(self._name.format(step.label))

    def failed(self, step: Step, why: str) -> None:
        """It is over; who walks says why."""
        self._display.step_ended(self._name.format(step.label))

    def noted(self, text: str) -> None:
        """Say a sentence."""
        self._display.say(text)


def _shown(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
