"""Profiling a model that no process holds: each has some of the experts, as in a training that shares them out."""

from pathlib import Path
from typing import Any

from esft_bench.harness.merging import merged
from esft_bench.harness.meter import metered
from esft_bench.harness.training.packing import check_isolation
from esft_bench.harness.training.profiling import Start, save_profiles
from esft_bench.harness.training.resting import held_together
from esft_bench.harness.training.spent import count_shares
from esft_bench.harness.training.together.launching import launch
from esft_bench.harness.training.together.machines import Crew
from esft_bench.harness.training.together.room import check_room
from esft_bench.spec.progress import Progress
from esft_bench.spec.suite import Backbone, Profiling


def profile_apart(start: Start, task: Path, wanted: Profiling, out: Path, scratch: Path, crew: Crew) -> dict[str, Any]:
    """`profile_task` by a crew's processes, each of which holds some of the experts; returns what it cost."""
    measured: dict[str, Any] = {}
    with merged(start.backbone, start.trained, scratch / "merged") as checkpoint, metered(measured):
        check_room(checkpoint, start.loading.precision, crew.on_each, apart=True)
        told = {"backbone": str(start.backbone), "loading": start.loading.model_dump(mode="json")}
        told |= {"checkpoint": str(checkpoint), "task": str(task), "out": str(out)}
        told |= {"wanted": wanted.model_dump(mode="json")}
        name = f"{__name__}:{share_of_profile.__name__}"
        shares = launch(name, told, crew, scratch, lambda step, steps: None)
    count_shares(measured, shares)
    return measured


def share_of_profile(told: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """One process's part; `told` says what `profile_apart` was asked for, and where. Returns what it cost."""
    start = Start(Path(told["backbone"]), Backbone.model_validate(told["loading"]))
    wanted, measured = Profiling.model_validate(told["wanted"]), dict[str, Any]()
    with metered(measured), held_together(start, Path(told["checkpoint"]), apart=True) as (model, layers):
        if wanted.packed_attention == "within":
            check_isolation(model)
        save_profiles(model, start.form(), Path(told["task"]), wanted, Path(told["out"]), layers)
    return measured
