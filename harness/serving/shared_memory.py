"""Shared memory that vLLM's processes leave behind.

vLLM 0.32 makes two segments of 160 and 240 MB at each start, and OpenMP a file for each process. None of them is
removed when the server ends, however it ends: they stay in memory until the machine is started anew.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108
SEGMENT = re.compile(rf"{FOLDER}/(?:psm_|nccl-)\w+$", re.MULTILINE)
"""As a process's map of memory names what Python's multiprocessing and NCCL make."""


def of_group(group: int) -> set[Path]:
    """What the processes of a group hold in shared memory: the segments they map, and OpenMP's files by their ids."""
    found: set[Path] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) != group:
                continue
            found |= set(FOLDER.glob(f"__KMP_REGISTERED_LIB_{folder.name}_*"))
            found |= {Path(name) for name in SEGMENT.findall((folder / "maps").read_text(errors="replace"))}
        except OSError:  # it has just ended
            continue
    return found


def remove(files: Iterable[Path]) -> None:
    """Remove them; whoever still maps one keeps it until it ends."""
    for file in files:
        file.unlink(missing_ok=True)
