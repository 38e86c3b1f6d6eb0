"""Whether this machine's main memory holds the model that processes are to load."""

from math import prod
from pathlib import Path

import psutil

from esft_bench.harness.training.together.sharding import sharded
from esft_bench.methods.tensor_files import tensor_files
from esft_bench.spec.errors import UserError

GIB = 2**30


def check_room(checkpoint: Path, precision: str, processes: int) -> None:
    """Raise UserError where less memory is available than loading takes: a copy, or one for each that shares nothing.

    It is asked before anything is read; shapes come from the files' headers.
    """
    files = tensor_files(checkpoint)
    width = 2 if precision == "bf16" else 4
    copies = 1 if sharded() else processes
    needed = copies * width * sum(prod(files.shape(name)) for name in files.files)
    available = psutil.virtual_memory().available
    if needed > available:
        raise UserError(
            f"{processes} processes need {needed / GIB:.1f} GiB of main memory to load the model, and "
            f"{available / GIB:.1f} GiB are available: free some, or train on a machine that has more."
        )
