"""How far a run is, in a file beside its results, for other shells: `progress.json`."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil
from pydantic import Field, ValidationError

from esft_bench.spec.files import write_json
from esft_bench.spec.strict import Strict

FILE = "progress.json"
QUIET = 60.0
"""Seconds after which a run on another machine that says nothing counts as stopped."""


class StepSeen(Strict):
    """A step at work: `done` of `total` (0: not known), for so many seconds."""

    name: str
    done: int = 0
    total: int = 0
    seconds: float = 0.0


class Live(Strict):
    """How far a run is.

    Attributes:
        updated: when this was written, UTC.
        host, pid: who writes it.
        phase: what the run is at; `ended` once it is over.
        cells: each cell's state by its label.
        steps: the steps at work.
        seconds_left: as the pace so far has it.
    """

    updated: datetime = Field(default_factory=lambda: datetime.now(UTC))
    host: str = Field(default_factory=platform.node)
    pid: int = Field(default_factory=os.getpid)
    phase: str = ""
    cells: dict[str, str] = Field({})
    steps: list[StepSeen] = Field([])
    seconds_left: float | None = None

    @property
    def state(self) -> Literal["running", "ended", "stopped"]:
        """Whether somebody is at work on it, it came to its end, or it was killed."""
        if self.phase == ENDED:
            return "ended"
        if self.host == platform.node():
            return "running" if _is_at_work(self.pid, self.updated) else "stopped"
        age = (datetime.now(UTC) - self.updated).total_seconds()
        return "running" if age < QUIET else "stopped"


ENDED = "ended"


def _is_at_work(pid: int, then: datetime) -> bool:
    """Whether the process that wrote something is still there, and not a later one of the same number."""
    try:
        return bool(psutil.Process(pid).create_time() <= then.timestamp() + 1)
    except psutil.Error:
        return False


def write(live: Live, folder: Path) -> None:
    """Replace `progress.json` in a run's folder."""
    write_json(folder / FILE, live.model_dump(mode="json"))


def read(folder: Path) -> Live | None:
    """What a run last said of itself; None where it said nothing that can be read."""
    try:
        return Live.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None
