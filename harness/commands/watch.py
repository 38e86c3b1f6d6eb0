"""Following a run: from what happens to steps to what is said of cells."""

from collections import defaultdict

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
        general = self._mean(path, self._plan.suite.general)
        self._display.cell(path.cell, "done", own)
        self._display.say(f"✓ {path.cell.label}: {_shown(own)}, general ability {_shown(general)}")
        self._written.refresh_now_and_then(self.failures)

    def _unjudged(self, path: CellPath) -> None:
        """A cell whose answers the judge could not all be asked about."""
        measured = [self._graph.artifacts[step].measured for step in path.scores.values()]
        count = sum(each.get("failed", 0) for each in measured)
        reasons = list(dict.fromkeys(why for each in measured for why in each.get("why", [])))[:REASONS]
        self._fail(path.cell, f"{count} answers could not be judged ({'; '.join(reasons)}); the others are kept")

    def _mean(self, path: CellPath, names: list[str]) -> float | None:
        """Mean score over some of a cell's benchmarks."""
        values = [mean_score(read_scores(self._graph.artifacts[path.scores[name]]))[0] for name in names]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
