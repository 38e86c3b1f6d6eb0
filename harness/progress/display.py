"""What a person sees while a run goes on: a live table of cells, the steps at work, a line for each finished cell.

On a terminal the table is redrawn in place; in a log the finished lines appear, and every minute one on how far it is.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live as RichLive
from rich.table import Table

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.progress import live
from esft_bench.harness.progress.live import Live, StepSeen
from esft_bench.harness.progress.pace import Pace, in_words
from esft_bench.harness.terminal import Terminal
from esft_bench.spec.cell import Cell
from esft_bench.spec.errors import UserError

SYMBOLS = {"to do": "·", "trained": "◔", "answered": "◕", "done": "✓", "failed": "✗", "training": "▸", "testing": "▹"}
TOLD_EVERY = 2.0
"""Seconds between two writings of how far a run is."""
SAID_EVERY = 60.0
"""Seconds between two lines on it in a log."""
SHOWN = 2
"""Steps at work that such a line names."""
LEGEND = "· to do   ▸ training   ◔ trained   ▹ being tested   ✓ done   ✗ failed"


@dataclass
class _Step:
    """A step at work: since when, and how far."""

    began: float
    done: int = 0
    total: int = 0

    def describe(self, name: str) -> str:
        """Name, share done, and the time left as the speed so far has it."""
        spent = time.monotonic() - self.began
        if not self.total or not self.done:
            return f"{name}  {spent:.0f} s"
        left = spent * (self.total - self.done) / self.done
        return f"{name}  {self.done}/{self.total}, {left:.0f} s left"


@dataclass
class Display:
    """The progress of one run. `states` and `scores` are by cell; steps at work are by name.

    It is told to `folder`, the run's, every few seconds.
    """

    plan: Plan
    console: Terminal
    states: dict[Cell, str]
    folder: Path
    scores: dict[Cell, float | None] = field(default_factory=dict)
    phase: str = ""
    pace: Pace = field(default_factory=lambda: Pace(()))
    _phases: set[str] = field(default_factory=set)
    _steps: dict[str, _Step] = field(default_factory=dict)
    _live: RichLive | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _teller: threading.Thread | None = None

    def __enter__(self) -> "Display":
        self._live = RichLive(console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True)
        if self.console.is_terminal:
            self._live.start()
        self._teller = threading.Thread(target=self._tell, daemon=True)
        self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._teller is not None:
            self._teller.join()
        if self._live is not None and self._live.is_started:
            self._live.stop()
        self._write(live.ENDED if kind is None else "stopped")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.say(text)

    def step(self, name: str, done: int = 0, total: int = 0) -> None:
        """A step is at work, `done` of `total`."""
        step = self._steps.setdefault(name, _Step(time.monotonic()))
        step.done, step.total = done, total

    def step_ended(self, name: str) -> None:
        """A step is over."""
        self._steps.pop(name, None)

    def enter_phase(self, phase: str) -> None:
        """The run is at this kind of work; said once of each, since on many machines they go on beside each other."""
        self.phase = phase
        if not self.console.is_terminal and phase not in self._phases:
            self.say(phase)
        self._phases.add(phase)

    def cell(self, cell: Cell, state: str, score: float | None = None) -> None:
        """A cell's state changed; `score` is that of its own task."""
        self.states[cell] = state
        if score is not None:
            self.scores[cell] = score

    def begin(self, kinds: Iterable[str]) -> None:
        """So many steps, by kind, are to be done from now on."""
        self.pace = Pace(kinds)

    def _tell(self) -> None:
        """Every few seconds write how far the run is; every minute say it where there is no terminal."""
        said = time.monotonic()
        while not self._over.wait(TOLD_EVERY):
            self._write(self.phase)
            if not self.console.is_terminal and self._steps and time.monotonic() - said >= SAID_EVERY:
                said = time.monotonic()
                self.say(self._in_a_line())

    def _write(self, phase: str) -> None:
        now = time.monotonic()
        steps = [
            StepSeen(name=name, done=step.done, total=step.total, seconds=round(now - step.began, 1))
            for name, step in list(self._steps.items())
        ]
        cells = {cell.label: state for cell, state in self.states.items()}
        try:
            live.write(Live(phase=phase, cells=cells, steps=steps, seconds_left=self.pace.seconds_left()), self.folder)
        except UserError:  # a full disk stops the run where it matters
            return

    def _in_a_line(self) -> str:
        """How far the run is."""
        finished = sum(state == "done" for state in self.states.values())
        steps = [step.describe(name) for name, step in list(self._steps.items())]
        left = in_words(self.pace.seconds_left())
        more = f"and {len(steps) - SHOWN} more steps" if len(steps) > SHOWN else ""
        return ". ".join(filter(None, [f"{finished} of {len(self.states)} cells done", *steps[:SHOWN], more, left]))

    def _render(self) -> RenderableType:
        """The table of cells over the steps at work."""
        suite = self.plan.suite
        table = Table(title=f"{suite.name}: {self.phase}", title_justify="left", pad_edge=False, box=None)
        table.add_column("", no_wrap=True)
        for task in suite.tasks:
            table.add_column(self.plan.tasks[task].title, justify="right", no_wrap=True)
        for row in suite.methods:
            cells = [cell for cell in self.plan.cells if cell.method == row]
            if len(cells) == 1 and not cells[0].task:
                table.add_row(suite.title(row), self._show(cells))
                continue
            table.add_row(
                suite.title(row), *(self._show([c for c in cells if task in c.tasks]) for task in suite.tasks)
            )
        steps = [self._dim("  " + step.describe(name)) for name, step in list(self._steps.items())]
        finished = sum(state == "done" for state in self.states.values())
        left = in_words(self.pace.seconds_left())
        footer = self._dim(f"{finished} of {len(self.states)} cells done   {left + '   ' if left else ''}{LEGEND}")
        return Group(table, *steps, footer)

    def _dim(self, text: str) -> RenderableType:
        return self.console.render_str(text, style="dim")

    def _show(self, cells: list[Cell]) -> str:
        """The cells of one row and task (one a seed and point): the row's mean if all are done, else their states."""
        scores = [self.scores.get(cell) for cell in cells if cell.is_row]
        if cells and all(self.states.get(cell) == "done" for cell in cells) and None not in scores:
            return f"{sum(score for score in scores if score is not None) / len(scores):.1f}"
        return "".join(SYMBOLS.get(self.states.get(cell, "to do"), "?") for cell in cells)
