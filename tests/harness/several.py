"""A step that trains on several nodes; as a program, a driver of it: `several.py ADDRESS FOLDER TOLD [GPUS]`."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from typing import Any, ClassVar

from esft_bench.harness.steps.step import Job
from esft_bench.harness.training.together.launching import launch
from esft_bench.harness.training.together.machines import Crew
from esft_bench.spec.errors import UserError
from esft_bench.spec.progress import Progress
from tests.harness.toys import Toy

STRATEGIES = {"ddp": "0", "fsdp2": "1"}
TRAINED = "trained"
"""The folder that such a step leaves: its last checkpoints, by strategy and method."""
AGAIN = "again"
"""The file that lets a training which waits go on, once it is begun anew."""


@dataclass(frozen=True, eq=False)
class Together(Toy):
    """A toy that trains in as many processes as it is given, on as many machines; `told` says what happens there."""

    kind: ClassVar[str] = "together"

    def _trains(self, job: Job) -> dict[str, Any]:
        crew = Crew(job.parallelism.processes, job.parallelism.machines)
        told = {"scratch": str(job.scratch), "told": self.told}
        shares = launch("tests.harness.several:share", told, crew, job.scratch, job.progress)
        copytree(job.scratch, job.out / TRAINED)
        return {"shares": shares}


def share(told: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """One process's part: train some methods, with and without sharing the model. Returns its place, and its steps.

    Told `waits` it stops after the third step of four, until it is killed; `refuses`, the last one refuses.
    """
    import torch
    from accelerate import PartialState

    state, scratch, steps = PartialState(), Path(told["scratch"]), list[int]()
    if told["told"] == "refuses" and state.process_index == state.num_processes - 1:
        raise UserError("the last one would not.")
    from esft_bench.harness.training.together.machines import SHARDED
    from tests.harness.ranks import run  # here: it takes seconds

    torch.set_num_threads(1)

    def heard(step: int, of: int) -> None:
        steps.append(step)
        progress(step, of)
        if told["told"] == "waits" and step == 3 and not (scratch / AGAIN).exists():
            (scratch / f"{state.process_index}.waits").write_text(str(os.getpid()))
            time.sleep(600)

    for strategy, value in STRATEGIES.items():
        os.environ[SHARDED] = value
        for method in ("esft-token",) if told["told"] else ("fft", "esft-token"):
            folder = scratch / strategy / method
            folder.mkdir(parents=True, exist_ok=True)
            run(method, folder, checkpoint_every=1, progress=heard)
    machine = int(os.environ["GROUP_RANK"])
    return {"machine": machine, "rank": state.process_index, "steps": steps}


def begun_at(steps: Sequence[int]) -> int:
    """The step that the first of several trainings began at."""
    assert all(after == before + 1 or after == 1 for before, after in pairwise(steps))
    return steps[0]


def check_weights(trained: Path, method: str) -> None:
    """That processes came to what one comes to, with both strategies."""
    import torch

    from esft_bench.harness.training.loop import gathered
    from tests.harness.ranks import METHODS, prepared
    from tests.harness.test_distributed import alone

    weights, log, before = alone(method)
    for strategy in STRATEGIES:
        model, _ = prepared(METHODS[method])
        found = gathered(model, trained / strategy / method)
        torch.testing.assert_close(found.losses, log.losses, rtol=1e-5, atol=1e-6)
        for name, tensor in weights.items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=2e-6, msg=f"{strategy} {name}")
    assert max(float((tensor - before[name]).abs().max()) for name, tensor in weights.items()) > 1e-3


def steps(told: str) -> list[Toy]:
    """What a driver that is told this walks: trainings on two nodes, or ordinary steps that hang the first time."""
    if told != "hangs":
        return [Together("trains", told=told)]
    from tests.harness.nodes import Frail

    return [Frail("hangs_once", told="x"), Frail("hangs_once", told="y", holds="engine", model="a")]


if __name__ == "__main__":
    import ray

    from esft_bench.harness.execute.cluster.connect import init
    from tests.harness.nodes import walk

    address, folder, told, *gpus = sys.argv[1:]
    # Nodes of one machine share their folders: a driver takes that of the head for its own by its address alone.
    place = {} if address.startswith("ray://") else {"_node_ip_address": address.rpartition(":")[0]}
    init(address, logging_level="ERROR", log_to_driver=False, **place)
    while ray.cluster_resources().get("GPU", 0) < 2:  # nodes come one after another
        time.sleep(0.2)
    count = int(gpus[0]) if gpus else 1 if told == "hangs" else 2
    watcher, failed = walk(Path(folder), steps(told), gpus=lambda step: count)
    print(failed, [artifact.measured for artifact in watcher.ended.values()], flush=True)
