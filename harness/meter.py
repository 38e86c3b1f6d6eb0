"""Measuring a step: wall and processor seconds, peak memory."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")


def _resident(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of this process in bytes; ru_maxrss where /proc is missing."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _reset_peak() -> None:
    """Let the kernel forget this process's peak (Linux); elsewhere the peak is the process's whole life."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def metered(measured: dict[str, Any]) -> Iterator[None]:
    """Fill `measured` with `seconds`, `cpu_seconds` and `peak_memory_bytes` of the block.

    On an accelerator the peak is what torch allocated there; on the CPU it is the process's peak resident memory
    above what it held when the block began, so that the interpreter and its libraries do not count.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    _reset_peak()
    before, wall, cpu = _resident("VmRSS"), time.perf_counter(), time.process_time()
    yield
    if cuda:
        torch.cuda.synchronize()
    measured["seconds"] = time.perf_counter() - wall
    measured["cpu_seconds"] = time.process_time() - cpu
    measured["peak_memory_bytes"] = torch.cuda.max_memory_allocated() if cuda else max(0, _resident("VmHWM") - before)
