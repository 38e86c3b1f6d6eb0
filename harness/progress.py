"""What a person sees while a run goes on: a live table of cells, the steps at work, a line for each finished cell.

On a terminal the table is redrawn in place; in a log file only the finished lines appear.
"""

import time
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.terminal import Terminal
from esft_bench.spec.cell import Cell

SYMBOLS = {"to do": "·", "trained": "◔", "answered": "◕", "done": "✓", "failed": "✗", "training": "▸", "testing": "▹"}
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
    """The progress of one run. `states` and `scores` are by cell; steps at work are by name."""

    plan: Plan
    console: Terminal
    states: dict[Cell, str]
    scores: dict[Cell, float | None] = field(default_factory=dict)
    phase: str = ""
    _steps: dict[str, _Step] = field(default_factory=dict)
    _live: Live | None = None

    def __enter__(self) -> "Display":
        self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True)
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None and self._live.is_started:
            self._live.stop()

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
        """The run is at this kind of work."""
        if phase == self.phase:
            return
        self.phase = phase
        if not self.console.is_terminal:
            self.say(phase)

    def cell(self, cell: Cell, state: str, score: float | None = None) -> None:
        """A cell's state changed; `score` is that of its own task."""
        self.states[cell] = state
        if score is not None:
            self.scores[cell] = score

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
        footer = self._dim(f"{finished} of {len(self.states)} cells done   {LEGEND}")
        return Group(table, *steps, footer)

    def _dim(self, text: str) -> RenderableType:
        return self.console.render_str(text, style="dim")

    def _show(self, cells: list[Cell]) -> str:
        """The cells of one row and task (one a seed): mean score if all are done, else their states."""
        scores = [self.scores.get(cell) for cell in cells]
        if cells and all(self.states.get(cell) == "done" for cell in cells) and None not in scores:
            return f"{sum(score for score in scores if score is not None) / len(scores):.1f}"
        return "".join(SYMBOLS.get(self.states.get(cell, "to do"), "?") for cell in cells)
