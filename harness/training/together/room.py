"""Whether this machine's main memory holds the model that processes are to load."""

from math import prod
from pathlib import Path

import psutil
import torch

from esft_bench.harness.training.together.sharding import sharded
from esft_bench.methods.tensor_files import tensor_files
from esft_bench.spec.errors import UserError

GIB = 2**30


def check_room(checkpoint: Path, precision: str, processes: int, apart: bool = False, trained: int = 0) -> None:
    """Raise UserError where less memory is available than loading takes: a copy, or one for each that shares nothing.

    Processes that hold experts `apart` and have accelerators read one tensor at a time; in the end one process puts
    together all that was `trained`, so many bytes. It is asked before anything is read; shapes come from the files'
    headers.
    """
    files = tensor_files(checkpoint)
    width = 2 if precision == "bf16" else 4
    sizes = [prod(files.shape(name)) for name in files.files]
    if apart:
        numbers = processes * max(sizes) if torch.cuda.is_available() else sum(sizes)
    else:
        numbers = (1 if sharded() else processes) * sum(sizes)
    needed, what = max((width * numbers, "load the model"), (trained, "put together what they train"))
    available = psutil.virtual_memory().available
    if needed > available:
        raise UserError(
            f"{processes} processes need {needed / GIB:.1f} GiB of main memory to {what}, and "
            f"{available / GIB:.1f} GiB are available: free some, or train on a machine that has more."
        )
