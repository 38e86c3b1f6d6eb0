"""A cell that trains nothing: its adapter, another's or none, and the canary of the model that it makes."""

from pathlib import Path
from typing import Any

from esft_bench.harness.merging import merged
from esft_bench.harness.meter import metered
from esft_bench.harness.training.data import encode_file
from esft_bench.harness.training.leaving import export, leave
from esft_bench.harness.training.readings import ROWS, check_reading
from esft_bench.harness.training.resting import held_together
from esft_bench.harness.training.spent import Spent, count_shares
from esft_bench.harness.training.together.launching import launch
from esft_bench.harness.training.together.machines import Crew, Machines
from esft_bench.harness.training.together.room import check_room
from esft_bench.harness.training.together.sharding import sharded
from esft_bench.harness.training.told import CellTraining
from esft_bench.harness.training.validation import drop_damaged
from esft_bench.spec.progress import Progress

UNCOMPARED = "Other readings of the adapter were not compared: that takes a process that holds the model."


def leave_untrained(cell: CellTraining, machines: Machines) -> dict[str, Any]:
    """Write into a cell's folder what a method that trains nothing leaves; returns what it cost.

    Where processes would share the model to train it, they share it here, on as many `machines`.
    """
    method, start = cell.make_method(), cell.start
    measured: dict[str, Any] = {"damaged": drop_damaged(cell.scratch), "trainable_parameters": 0, "steps": 0}
    history = Spent(cell.scratch, measured["damaged"])
    with metered(measured):
        measured["stored_bytes"] = export(method, start.load(cell.backbone, "meta"), cell)
        with merged(cell.backbone, [*cell.trained, cell.out], cell.scratch / "merged") as checkpoint:
            shares = _canary_together(cell, Crew(cell.processes, machines), checkpoint)
            model = None if shares else start.load(checkpoint)
        if model is None:
            measured["notes"] = [UNCOMPARED] if method.other_readings else []
        else:
            form = start.form()
            rows = encode_file(form, cell.tasks[0], cell.training.sequence_length, "left")[:ROWS]
            measured["notes"] = check_reading(method, model, start, cell.out, rows)
            leave(model, form, cell.tasks[0], cell.out)
    count_shares(measured, shares)
    history.add_to(measured)
    return measured


def _canary_together(cell: CellTraining, crew: Crew, checkpoint: Path) -> list[dict[str, Any]]:
    """Have processes that share the model write its canary, where they are to; returns what each took."""
    if cell.processes == 1 or not (cell.apart or sharded()):
        return []
    check_room(checkpoint, cell.loading.precision, crew.on_each, cell.apart)
    told = {"checkpoint": str(checkpoint), "cell": cell.model_dump(mode="json")}
    name = f"{__name__}:{share_of_canary.__name__}"
    return launch(name, told, crew, cell.scratch, lambda step, steps: None)


def share_of_canary(told: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """One process's part in making the canary of the `cell` whose merged model is in the folder `checkpoint`."""
    cell, measured = CellTraining.model_validate(told["cell"]), dict[str, Any]()
    with metered(measured), held_together(cell.start, Path(told["checkpoint"]), cell.apart) as (model, _):
        leave(model, cell.start.form(), cell.tasks[0], cell.out)
    return measured
