"""What keeps an attempt that was given up from writing on: a node may be cut off from the driver, yet see the store.

The folder that an attempt builds in is its right to go on. The driver removes it before it has the step begun again,
and so does another driver that takes the step over.
"""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LOOKS = 5.0
"""Seconds between two looks at those folders."""
OVER = 2 * LOOKS
"""Seconds after which an attempt has ended whose folder was removed: before, its step is not begun again."""


@contextmanager
def fenced(folders: Sequence[Path]) -> Iterator[None]:
    """End this process at once, and with it those it has started, when one of these folders is removed."""
    over = threading.Event()
    threading.Thread(target=_end_with, args=(folders, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _end_with(folders: Sequence[Path], over: threading.Event) -> None:
    made: set[Path] = set()
    while not over.wait(LOOKS):
        there = {folder for folder in folders if _lies(folder)}
        if made - there and not over.is_set():
            os.kill(os.getpid(), signal.SIGKILL)
        made |= there


def _lies(folder: Path) -> bool:
    """Whether a folder is there, or cannot be asked for now."""
    try:
        folder.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True
