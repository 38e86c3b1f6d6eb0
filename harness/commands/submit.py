"""Handing a run to a batch system: the file that it takes, written and not sent."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from esft_bench.spec.errors import UserError

PORT = 6379
"""Where the nodes of a job find each other."""

SBATCH = """\
#!/bin/bash
# Written by `esft-bench submit --slurm`. Send it with `sbatch {name}`; sent again it goes on where it was.
#SBATCH --job-name=esft-bench
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cores}
#SBATCH --mem=0
#SBATCH --time={time}
#SBATCH --requeue
#SBATCH --output=esft-bench-%j.log
{more}
set -euo pipefail
cd {folder}
export RAY_USAGE_STATS_ENABLED=0 PYTHONSAFEPATH=1 PATH={bin}:"$PATH"
# Nobody else of these machines joins in.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n')
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# The same command on every node: it starts Ray there, and the run on the first once all have joined.
srun --kill-on-bad-exit=0 {ray} symmetric-run --address "$head:{port}" --min-nodes "$SLURM_JOB_NUM_NODES" \\
  --num-cpus {cores} --num-gpus {gpus} -- {command}
"""


@dataclass(frozen=True)
class SubmitOptions:
    """What a job asks for, and the run that it carries out."""

    run: Annotated[
        list[str], typer.Argument(metavar="-- SUITE [OPTIONS]...", help="The suite and options of `run`, after --.")
    ]
    slurm: Annotated[bool, typer.Option("--slurm", help="Write a file for sbatch.")] = False
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the job.")] = 1
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each node.")] = 8
    cores: Annotated[int, typer.Option(min=1, help="Cores of each node.")] = 32
    time: Annotated[str, typer.Option(help="How long it may take, as SLURM has it.")] = "24:00:00"
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="A further line of #SBATCH, e.g. partition=gpu.")
    ] = None
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("esft-bench.sbatch")


def submit(options: SubmitOptions, ray: Path, program: Path) -> Path:
    """Write the file for a job that runs `program` by `ray`, both as all nodes see them; returns where it is."""
    if not options.slurm:
        raise UserError("submit: say for which batch system; there is --slurm.")
    if any(each.split("=")[0] == "--on" for each in options.run):
        raise UserError("submit: leave out --on: the run is on the nodes of its job.")
    for text in (options.time, *(options.sbatch or [])):
        if not text or not text.isprintable() or text.startswith("-"):
            raise UserError(f"submit: {text!r} cannot stand in a line of #SBATCH: give NAME=VALUE.")
    text = SBATCH.format(
        name=options.out.name,
        nodes=options.nodes,
        gpus=options.gpus,
        cores=options.cores,
        time=options.time,
        more="".join(f"#SBATCH --{each}\n" for each in options.sbatch or []),
        folder=shlex.quote(str(Path.cwd())),
        bin=shlex.quote(str(ray.parent)),
        ray=shlex.quote(str(ray)),
        port=PORT,
        command=shlex.join([str(program), "run", *options.run, "--on", "ray"]),
    )
    options.out.write_text(text, encoding="utf-8")
    return options.out
