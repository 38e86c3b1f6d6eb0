"""One step in several processes of this machine, through `accelerate launch`: one for each accelerator.

    python -m esft_bench.harness.training.processes JOB.json

is what each process runs: a function that is named in the job, with the arguments that stand there. Parameters,
gradients and optimizer state are sharded over accelerators (FSDP2); processes without them hold whole models (DDP).
What a process has to say comes back as marked lines of its output. All of them end when the launching process does.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from esft_bench.spec.errors import DivergedError, UserError
from esft_bench.spec.files import write_json
from esft_bench.spec.progress import Progress

MARK = "\x1eesft-bench "
"""What begins a line that is meant for the process that launched; all other lines are for the log."""

COMMON = "--num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
SHARDED = (
    "--use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --fsdp_reshard_after_forward true "
    "--fsdp_cpu_ram_efficient_loading false"
)

ON_CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
"""Makes `--multi_gpu` mean processes on the CPU (gloo): with `--cpu` accelerate starts several through MPI only."""


def launch(
    function: str, arguments: dict[str, Any], processes: int, scratch: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Run `function` (`module:function`, called with arguments and progress) in `processes`; returns their results.

    `arguments` must be JSON. Raises UserError with a process's sentence, RuntimeError where one ended otherwise.
    """
    job = scratch / "job.json"
    write_json(job, {"function": function, "arguments": arguments})
    environment = os.environ | ({} if torch.cuda.is_available() else ON_CPU)
    command = [sys.executable, "-m", *_launcher(processes), "esft_bench.harness.training.processes", str(job)]
    results: list[dict[str, Any]] = []
    errors: list[tuple[bool, str]] = []
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
            (results if kind == "done" else errors if kind == "error" else []).append(payload)
    if errors:
        diverged, said = errors[0]
        raise (DivergedError if diverged else UserError)(said)
    if process.returncode or len(results) != processes:
        raise RuntimeError(f"its {processes} processes ended with code {process.returncode}")
    return results


def _launcher(processes: int) -> list[str]:
    """What comes before the module's name on the command line."""
    flags = f"{COMMON} --num_processes {processes} {SHARDED if torch.cuda.is_available() else '--multi_gpu'}"
    return ["accelerate.commands.launch", *flags.split(), "-m"]


def _say(kind: str, payload: Any) -> None:
    """Tell the process that launched, in one write, so that lines of several processes do not mix."""
    sys.stdout.flush()
    os.write(1, f"\n{MARK}{json.dumps([kind, payload])}\n".encode())


def _die_with_the_launcher() -> None:
    """The launcher holds the other end of standard input: when it ends, however it ends, this process does."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """One process's part of a job."""
    from accelerate import PartialState

    threading.Thread(target=_die_with_the_launcher, daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    state = PartialState()  # joins the others and takes this process's device
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
    state.destroy_process_group()


if __name__ == "__main__":
    main()
