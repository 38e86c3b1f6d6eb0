"""A plan being walked: where, with what, what went wrong so far, and its results and report kept up to date."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from esft_bench.harness import curves, routing
from esft_bench.harness.judge import Judge
from esft_bench.harness.plan import Cell, Plan
from esft_bench.harness.progress import Display
from esft_bench.harness.results import collect
from esft_bench.reports.forms import write_reports
from esft_bench.spec import results as results_file


@dataclass(frozen=True)
class Transport:
    """How a run is carried out; nothing here changes a result."""

    workers: int = 1
    threads: int = 1
    micro_batch: int | None = None
    processes: int = 1
    keep_checkpoints: bool = False


@dataclass
class Walk:
    """A plan being walked: where, with what, and what went wrong so far."""

    plan: Plan
    folder: Path
    judge: Judge
    transport: Transport
    display: Display
    command: str
    notes: list[str] = field(default_factory=list)
    failures: dict[Cell, str] = field(default_factory=dict)
    refreshed: float = 0.0
    refresh_seconds: float = 0.0

    @property
    def log(self) -> Path:
        """Where everything that is not for the user's eyes is written."""
        return self.folder / "esft-bench.log"


def refresh(walk: Walk, *, draw: bool = True) -> None:
    """Write results and report from what is finished; figures only where asked for, because drawing takes seconds."""
    began = time.monotonic()
    records = collect(walk.plan, walk.folder, walk.failures)
    results_file.write(records, walk.folder)
    routing.write(walk.plan, walk.folder)
    curves.write(walk.plan, walk.folder)
    write_reports(walk.folder, draw=draw)
    walk.refreshed, walk.refresh_seconds = time.monotonic(), time.monotonic() - began


def refresh_now_and_then(walk: Walk) -> None:
    """Keep the report of a run at work fresh, at no more than a twentieth of its time."""
    if time.monotonic() - walk.refreshed > 20 * walk.refresh_seconds:
        refresh(walk, draw=False)


def failed(walk: Walk, cell: Cell, why: str) -> None:
    """Note that a cell failed, and say so; the run goes on with the others."""
    walk.failures[cell] = why
    walk.display.cell(cell, "failed")
    walk.display.say(f"✗ {cell.label}: {why} (details in {walk.log})")
