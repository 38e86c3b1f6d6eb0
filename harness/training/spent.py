"""What killed attempts at a training took, so that one that is resumed reports its whole cost."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esft_bench.harness.store.notes import Notes
from esft_bench.spec.progress import Progress

SPENT = "spent"
"""The note of it."""


class Spent:
    """Seconds spent by earlier, killed attempts at a cell, so that a resumed cell reports its whole cost."""

    def __init__(self, scratch: Path, damaged: list[str]) -> None:
        """`damaged` takes a sentence where that was noted and cannot be relied on."""
        self.notes, self.training = Notes(scratch, damaged), scratch.name
        said = self.notes.read(SPENT) or {}
        known = said if said.get("training") == self.training else {}
        self.spent = {name: float(known.get(name, 0.0)) for name in ("seconds", "cpu_seconds")}
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def wrapped(self, progress: Progress) -> Progress:
        """The same progress callback, noting now and then what has been spent."""

        def noting(step: int, steps: int) -> None:
            if step % 50 == 0 and step < steps:
                self.notes.write(SPENT, {"training": self.training, **self._total()})
            progress(step, steps)

        return noting

    def _total(self) -> dict[str, float]:
        return {
            "seconds": self.spent["seconds"] + time.perf_counter() - self.wall,
            "cpu_seconds": self.spent["cpu_seconds"] + time.process_time() - self.cpu,
        }

    def add_to(self, measured: dict[str, Any]) -> None:
        """Add what earlier attempts spent."""
        for name, value in self.spent.items():
            measured[name] += value


def count_shares(measured: dict[str, Any], shares: list[dict[str, Any]]) -> None:
    """Add what other processes took: their time, and the memory that each needed in place of this one's."""
    for share in shares:
        measured["cpu_seconds"] += share["cpu_seconds"]
    if shares:  # this process only gathers what came out
        measured["peak_memory_bytes"] = max(share["peak_memory_bytes"] for share in shares)
        measured["processes"] = len(shares)


def without_looks(measured: dict[str, Any], looks: Sequence[float], processes: int) -> None:
    """Take the time of looks, which every process takes, out of that of training."""
    seconds, cpu_seconds = looks
    measured["look_seconds"] = seconds
    measured["seconds"] = max(0.0, measured["seconds"] - seconds)
    measured["cpu_seconds"] = max(0.0, measured["cpu_seconds"] - processes * cpu_seconds)
