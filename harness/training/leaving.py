"""What a cell leaves: its adapter, the canary that proves it when it is served, and the routing of what it trained."""

from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel

from esft_bench.harness.backbone.prompts import Form
from esft_bench.harness.merging import Merger
from esft_bench.harness.serving import canary
from esft_bench.harness.store.artifacts import bytes_in
from esft_bench.harness.store.names import ADAPTER, AFTER, CANARY
from esft_bench.harness.training.data import first_turns, turn_ids
from esft_bench.harness.training.profiling import profile_model
from esft_bench.harness.training.told import CellTraining
from esft_bench.methods.method import Method
from esft_bench.methods.moe.view import MoeLayer
from esft_bench.spec.suite import Profiling

CANARY_PROMPTS = 4
CANARY_TOKENS = 48


def leave(
    model: PreTrainedModel,
    form: Form,
    task: Path,
    out: Path,
    profiling: Profiling | None = None,
    layers: Mapping[int, MoeLayer] | None = None,
) -> None:
    """Write into `out` the canary and, with `profiling`, a profile of the task's data by the model's `layers`.

    The canary is on a few questions and answers the cell was trained on: where its weights speak most clearly.
    Processes that share the model must all call this; the main one writes.
    """
    turns = first_turns(form, task, CANARY_PROMPTS)
    prompts = [turn_ids(form, *turn)[:CANARY_TOKENS] for turn in turns]
    seen = canary.measure(model, prompts, turns)
    after = profile_model(model, form, task, profiling, layers) if profiling and layers else None
    if not PartialState().is_main_process:
        return
    seen.save(out / CANARY)
    if after:
        (out / AFTER).mkdir(exist_ok=True)
        after.save(out / AFTER)


def export(method: Method, model: PreTrainedModel, cell: CellTraining) -> int:
    """Write the adapter and who made it; returns the adapter's bytes."""
    adapter = cell.out / ADAPTER
    adapter.mkdir()
    method.export(model, adapter)
    Merger(method=cell.method, hyperparameters=cell.hyperparameters).save(cell.out)
    return bytes_in(adapter)
