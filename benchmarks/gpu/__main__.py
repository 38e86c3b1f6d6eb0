"""Step time and memory of every method at OLMoE's and DeepSeek-V2-Lite's shapes, on one GPU, in bf16.

    python -m benchmarks.gpu --out FOLDER [--shape olmoe|v2-lite|tiny …] [--row NAME …] [--seconds 3600] [--limit 300]

Rows come one after the other, each with a model of its own, made on the device: nothing is downloaded. They run in a
process of their own, which a row that takes longer than `--limit`, or breaks the device's context, ends; the next one
goes on with the row after it. Every row is written as it comes, to `steps.jsonl`; `plan`'s estimates of the same steps
are made meanwhile; the page is made last. `--tests` also runs the tests marked `gpu`, before the rows of other kernels.
`--shape tiny` runs every line of this on a CPU.
"""

import argparse
import contextlib
import faulthandler
import gc
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from benchmarks.gpu.measure import measure, product_rate
from benchmarks.gpu.page import page
from benchmarks.gpu.records import STEPS, add, estimate_all, read
from benchmarks.gpu.rows import LATER, OWN, PEERS, ROWS
from benchmarks.gpu.shapes import SHAPES
from benchmarks.step_time import machine

Job = tuple[str, str]
"""A shape and a row."""


def run_here(jobs: Sequence[Job], out: Path, limit: float, profile: Path | None = None) -> None:
    """Measure jobs in this process, which ends where one of them takes longer than `limit` seconds.

    Tables of the kernels of a step are added to `profile`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not read(out / STEPS):
        describe(out, device)
    for shape, name in jobs:
        print(f"{shape}: {name} ...", flush=True)
        faulthandler.dump_traceback_later(limit, exit=True)
        try:
            if profile:
                with profile.open("a", encoding="utf-8") as file:
                    file.write(f"{shape}: {name}\n")
            found = asdict(measure(SHAPES[shape], ROWS[name], device, profile))
        except torch.OutOfMemoryError:
            found = {"why_not": "does not fit"}
        except Exception as error:  # a peer's kernel that is missing, or does not take this model
            found = {"why_not": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        faulthandler.cancel_dump_traceback_later()
        add(out / STEPS, shape=shape, row=name, **found)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def run_all(jobs: Sequence[Job], arguments: argparse.Namespace, end: float) -> None:
    """Measure jobs in processes of their own, until all are done or the time is up."""
    left = list(jobs)
    while left and time.monotonic() < end:
        options = ["--out", str(arguments.out), "--limit", str(arguments.limit)]
        options += ["--kernels"] if arguments.kernels else []
        command = [sys.executable, "-m", "benchmarks.gpu", *options, "--jobs", *("=".join(job) for job in left)]
        try:
            subprocess.run(command, timeout=end - time.monotonic(), check=False)
            why_not = f"ended: more than {arguments.limit:.0f} s, or a broken context"
        except subprocess.TimeoutExpired:
            why_not = "not reached in time"
        done = {(record.get("shape"), record.get("row")) for record in read(arguments.out / STEPS)}
        left = [job for job in left if job not in done]
        if left:
            shape, name = left.pop(0)
            add(arguments.out / STEPS, shape=shape, row=name, why_not=why_not)


def run_tests(arguments: argparse.Namespace, end: float) -> None:
    """The tests that need an accelerator; their output goes to `tests.txt`."""
    options = ["-n0", "-m", "gpu", "--timeout=60", "-rA", "-p", "no:randomly"]
    command = [sys.executable, "-m", "pytest", *options, "tests/methods/test_gpu.py"]
    with (arguments.out / "tests.txt").open("w") as file:
        try:
            subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=min(90, end - time.monotonic()), check=False
            )
        except subprocess.TimeoutExpired:
            file.write("ended: no more time\n")


def describe(out: Path, device: torch.device) -> None:
    """Write down the device, the versions and the rate of a large product."""
    cuda = device.type == "cuda"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    add(out / STEPS, device=torch.cuda.get_device_name(device) if cuda else machine(), versions=versions)
    add(out / STEPS, product_rate=product_rate(device, 8192 if cuda else 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be repeated")
    parser.add_argument("--seconds", type=float, default=3600, help="for everything")
    parser.add_argument("--limit", type=float, default=300, help="seconds a row may take")
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--kernels", action="store_true", help="say in kernels.txt what a step's time goes to")
    parser.add_argument("--jobs", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--estimates", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.jobs is not None:
        profile = arguments.out / "kernels.txt" if arguments.kernels else None
        run_here([tuple(job.split("=", 1)) for job in arguments.jobs], arguments.out, arguments.limit, profile)
        return
    if arguments.estimates is not None:
        estimate_all(arguments.estimates, arguments.out)
        return
    everything(arguments, parser)


def everything(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """All rows of all shapes, our own first, and the page."""
    shapes = arguments.shape or ["olmoe", "v2-lite"]
    if shapes != ["tiny"] and not torch.cuda.is_available():
        parser.error("the shapes of real models need a GPU, and there is none here: --shape tiny runs on a CPU")
    end = time.monotonic() + arguments.seconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    estimates = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", "--out", str(arguments.out), "--estimates", *shapes]
    )
    try:
        own, peers = (
            [(shape, name) for shape in shapes for name in rows if not arguments.row or name in arguments.row]
            for rows in (OWN | LATER, PEERS)
        )
        run_all(own, arguments, end)
        if arguments.tests:
            run_tests(arguments, end)
        run_all(peers, arguments, end)
        with contextlib.suppress(subprocess.TimeoutExpired):
            estimates.wait(max(1, end - time.monotonic()))
    finally:
        estimates.kill()
        text = page(arguments.out)
        (arguments.out / "page.md").write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
