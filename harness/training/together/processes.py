"""One step in several processes, of this machine or of several, one for each accelerator: what each of them runs.

    python -m esft_bench.harness.training.together.processes JOB.json

runs a function that is named in the job, with the arguments that stand there. On accelerators processes share one model
(`sharding`); without them they hold whole ones (DDP), unless the environment says otherwise. What a process has to say
goes to whoever launched it (`launching`), as marked lines of its output.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from esft_bench.harness.training.together.launcher import end_with_the_starter
from esft_bench.spec.errors import DivergedError, UserError

MARK = "\x1eesft-bench "
"""What begins a line that is meant for the process that launched; all other lines are for the log."""


def _say(kind: str, payload: Any) -> None:
    """Tell the process that launched, in one write, so that lines of several processes do not mix."""
    sys.stdout.flush()
    os.write(1, f"\n{MARK}{json.dumps([kind, payload])}\n".encode())


def _lost_another(error: Exception) -> bool:
    """Whether this process failed because another one is gone, as gloo and NCCL tell it."""
    return isinstance(error, distributed.DistError) or "by peer" in str(error)


def main() -> None:
    """One process's part of a job."""
    from accelerate import PartialState

    end_with_the_starter()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    # Joins the others and takes this process's device; not told of a processor, it would take itself to be alone.
    state = PartialState(cpu=not torch.cuda.is_available())
    last = 0.0

    def progress(step: int, steps: int) -> None:
        nonlocal last
        if state.is_main_process and (step == steps or time.monotonic() - last > 0.2):
            last = time.monotonic()
            _say("progress", (step, steps))

    module, _, name = job["function"].partition(":")
    try:
        _say("done", getattr(__import__(module, fromlist=[name]), name)(job["arguments"], progress))
    except UserError as error:
        _say("error", [isinstance(error, DivergedError), str(error)])
        raise
    except Exception as error:
        if not _lost_another(error):
            _say("failed", "")  # why stands in the log
        raise
    state.destroy_process_group()


if __name__ == "__main__":
    main()
