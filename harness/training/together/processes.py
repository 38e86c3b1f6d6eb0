"""One step in several processes of this machine, through `accelerate launch`: one for each accelerator.

    python -m esft_bench.harness.training.together.processes JOB.json

is what each process runs: a function that is named in the job, with the arguments that stand there. On accelerators
they share one model (`sharding`); processes without them hold whole ones (DDP), unless the environment says otherwise.
What a process has to say comes back as marked lines of its output. All of them end when the launching process does.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from esft_bench.spec.errors import DivergedError, UserError
from esft_bench.spec.files import write_json
from esft_bench.spec.progress import Progress

MARK = "\x1eesft-bench "
"""What begins a line that is meant for the process that launched; all other lines are for the log."""

FLAGS = "--multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"

ON_CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
"""Makes `--multi_gpu` mean processes on the CPU (gloo): with `--cpu` accelerate starts several through MPI only."""


def launch(
    function: str, arguments: dict[str, Any], processes: int, scratch: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Run `function` (`module:function`, called with arguments and progress) in `processes`; returns their results.

    `arguments` must be JSON. Raises UserError with a process's sentence,
    or where one was ended from outside; RuntimeError where one failed.
    """
    job = scratch / "job.json"
    write_json(job, {"function": function, "arguments": arguments})
    environment = os.environ | ({} if torch.cuda.is_available() else ON_CPU)
    command = [sys.executable, "-m", *_launcher(processes), "esft_bench.harness.training.together.processes", str(job)]
    said = defaultdict[str, list[Any]](list)
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith(MARK):
                print(line, end="", flush=True)
                continue
            kind, payload = json.loads(line.removeprefix(MARK))
            if kind == "progress":
                progress(*payload)
            said[kind].append(payload)
    for diverged, sentence in said["error"]:
        raise (DivergedError if diverged else UserError)(sentence)
    if said["failed"]:
        raise RuntimeError(f"its {processes} processes ended with code {process.returncode}")
    if process.returncode or len(said["done"]) != processes:
        raise UserError(
            f"One of the {processes} processes that train together was ended from outside, as one is that takes more "
            "memory than there is: free some, or start fewer with --processes, and run the same command again."
        )
    return said["done"]


def _launcher(processes: int) -> list[str]:
    """What comes before the module's name on the command line."""
    return ["accelerate.commands.launch", *FLAGS.split(), "--num_processes", str(processes), "-m"]


def _say(kind: str, payload: Any) -> None:
    """Tell the process that launched, in one write, so that lines of several processes do not mix."""
    sys.stdout.flush()
    os.write(1, f"\n{MARK}{json.dumps([kind, payload])}\n".encode())


def _die_with_the_launcher() -> None:
    """The launcher holds the other end of standard input: when it ends, however it ends, this process does."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _lost_another(error: Exception) -> bool:
    """Whether this process failed because another one is gone, as gloo and NCCL tell it."""
    return isinstance(error, distributed.DistError) or "by peer" in str(error)


def main() -> None:
    """One process's part of a job."""
    from accelerate import PartialState

    threading.Thread(target=_die_with_the_launcher, daemon=True).start()
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
