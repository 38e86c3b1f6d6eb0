"""What a command takes as a user types it: a process of its own, with its imports and all that it prints."""

import resource
import subprocess
import sys
from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True)
class Took:
    """Seconds of a clock, and of processors."""

    seconds: float
    processor: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.processor:.1f} s of processors)"


def took(*arguments: str) -> Took:
    """What `esft-bench` with these arguments takes."""
    began, used = monotonic(), _used()
    subprocess.run([sys.executable, "-m", "esft_bench.harness.cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    return Took(monotonic() - began, _used() - used)


def _used() -> float:
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ours.ru_utime + ours.ru_stime
