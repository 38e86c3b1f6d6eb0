"""Processes that train together, forked from one that has imported what they need: imports take longer than training.

They see each other as those of `accelerate launch` do, on processors (gloo).
"""

import json
import os
import socket
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

from esft_bench.harness.execute.local import PRELOADED
from esft_bench.harness.training.together.machines import Crew
from esft_bench.spec.errors import UserError
from esft_bench.spec.progress import Progress

NEEDED = [*PRELOADED, "tests.harness.ranks", "tests.harness.expert_ranks", "tests.harness.changes"]


def together(count: int, function: Callable[..., None], *told: Any) -> None:
    """Call a function of a module in `count` processes; what it is told must be picklable.

    Raises ProcessRaisedException with the traceback of a process that failed; the others are ended.
    """
    get_context("forkserver").set_forkserver_preload(NEEDED)
    places = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"} | {name: str(place) for name, place in places.items()}
    start_processes(_part, (environment, function, told), nprocs=count, start_method="forkserver")


def launch(
    function: str, arguments: dict[str, Any], crew: Crew, scratch: Path, progress: Progress
) -> list[dict[str, Any]]:
    """What `launching.launch` does on this machine: what `function` came to in each process, or one's sentence."""
    with TemporaryDirectory() as place:
        try:
            together(crew.processes, _share, function, arguments, place)
        except ProcessRaisedException as error:
            if sentences := [each["error"] for each in _said(place) if "error" in each]:
                raise UserError(sentences[0]) from error
            raise
        return [each["done"] for each in _said(place)]


def _said(place: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path(place).iterdir())]


def _part(rank: int, environment: dict[str, str], function: Callable[..., None], told: tuple[Any, ...]) -> None:
    os.environ.clear()  # that of the process which all are forked from is of another time
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    function(*told)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _share(function: str, arguments: dict[str, Any], place: str) -> None:
    """A process's part of a job, as `processes.main` does it; what came of it stands in a folder."""
    from accelerate import PartialState

    state = PartialState(cpu=True)
    module, _, name = function.partition(":")
    into = Path(place, f"{state.process_index:03}.json")
    try:
        done = getattr(__import__(module, fromlist=[name]), name)(arguments, lambda step, steps: None)
    except UserError as error:
        into.write_text(json.dumps({"error": str(error)}))
        raise
    into.write_text(json.dumps({"done": done}))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
