"""Catching what a process and its children print, for the run's log."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

LOG_BYTES = 64 * 1024
"""So much of what an attempt prints comes back to the run's log: its end. Small enough for Ray to send it at once, so
that it is not lost with its node."""


@contextmanager
def caught() -> Iterator[IO[bytes]]:
    """Catch what this process and its children print."""
    _flush()
    with tempfile.TemporaryFile() as file:
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        for descriptor in kept:
            os.dup2(file.fileno(), descriptor)
        try:
            yield file
        finally:
            _flush()
            for descriptor, before in kept.items():
                os.dup2(before, descriptor)
                os.close(before)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def end_of(file: IO[bytes]) -> str:
    """The end of what was caught so far."""
    _flush()
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), LOG_BYTES, max(0, size - LOG_BYTES)).decode(errors="replace")
