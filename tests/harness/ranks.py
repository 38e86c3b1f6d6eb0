"""What each process runs for test_distributed (`part`): every method, whole and interrupted.

What came out lies in FOLDER/ddp/METHOD/whole, …/resumed, and FOLDER/fsdp2/…, as the training loop's last checkpoint;
in FOLDER/fsdp2/METHOD/left what another number of processes may go on from, and …/moved where these have gone on from
such of LEFT. FOLDER/reduced.json says of each method how many bytes of gradients were reduced, and how many it should.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from esft_bench.harness.training.data import IGNORED, Sample
from esft_bench.harness.training.loop import Options, TrainingLog, train
from esft_bench.harness.training.precision import held
from esft_bench.harness.training.together.machines import SHARDED
from esft_bench.harness.training.together.sharding import read_onto
from esft_bench.methods.attention_router import AttentionRouter
from esft_bench.methods.das import DasTune
from esft_bench.methods.das_lora import DasLora
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.esft_router import EsftRouter
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.profile import profile
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.spec.training import Training
from tests.conftest import build
from tests.methods.helpers import profiled, tokens

METHODS: dict[str, Method] = {
    "fft": FullFineTuning(),
    "lora": Lora(rank=2, experts=True),
    "esft-token": EsftToken(),
    "attention-router": AttentionRouter(),
    "esft-router": EsftRouter(),
    "das-tune": DasTune(count=2),
    "das-lora": DasLora(count=2, rank=2),
}
"""Stage 1 of the last two is attention-router, a training of its own."""
SETTINGS = Training(steps=4, batch_size=3, sequence_length=12, learning_rate=1e-3, evaluate_every=2, profile_every=2)
"""Three sequences a step: neither two nor four processes can share them evenly."""
PLAIN = SETTINGS.model_copy(update={"evaluate_every": None, "profile_every": None})


MOVED = ("fft", "lora", "esft-token", "das-tune")
"""Methods whose trainings another number of processes goes on with."""
RESUMED = (*MOVED, "esft-router")
"""Those that are stopped and resumed; the last one has two learning rates."""
LOOKED_AT = ("fft", "lora", "esft-token")
"""Those in which the model is looked at while it trains."""
LEFT = "left"
"""Where they are left."""


class StoppedError(Exception):
    """Stands for a kill."""


def sequences() -> Iterator[Sample]:
    """The same stream in every process."""
    rng = random.Random(0)
    while True:
        ids = [rng.randrange(3, 96) for _ in range(12)]
        yield Sample(ids, [token if rng.random() < 0.5 else IGNORED for token in ids])


def looks_at(model: PreTrainedModel, layers: Mapping[int, MoeLayer]) -> dict[str, Callable[[], Any]]:
    """A score that calls the model itself, and has it go on from some tokens; and the routing of these."""
    ids = tokens()

    def score() -> float:
        together = distributed.is_initialized()  # as the harness asks a model that processes share
        answers = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0, synced_gpus=together)
        assert answers.shape == (len(ids), ids.shape[1] + 3)
        return float(model(input_ids=ids).logits.float().logsumexp(-1).mean())

    def measure() -> Tensor | None:
        sums = profile(model, [(ids, torch.ones_like(ids))], layers).router_sums
        return None if sums is None else sums[None]

    return {"score": score, "measure": measure}


def prepared(
    method: Method, layers: dict[int, MoeLayer] | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, list[torch.nn.Parameter]]:
    """A model made ready, the same each time; `layers` takes what it had before."""
    model = build("deepseek-v2")
    if layers is not None:
        layers |= moe_layers(model)
    general = tokens(seed=2)
    context = Context(seed=0, profile=profiled(model), general=profile(model, [(general, torch.ones_like(general))]))
    model.to(dtype)
    if read_onto() == "meta":
        model.to("meta")  # as the harness loads it, where another process reads the weights
    return model, list(method.prepare(model, context))


def run(name: str, scratch: Path, **options: Any) -> tuple[PreTrainedModel, TrainingLog]:
    """Train a model the way of the method of this name, with its learning rates."""
    layers: dict[int, MoeLayer] = {}
    method = METHODS[name]
    model, parameters = prepared(method, layers)
    options["learning_rate_factors"] = method.learning_rate_factors(model)
    if name in LOOKED_AT:
        options |= {"held_out": list(islice(sequences(), 3)), **looks_at(model, layers)}
    settings = SETTINGS if name in LOOKED_AT else PLAIN
    return model, train(model, parameters, sequences(), settings, scratch, Options(**options))


def two_types(scratch: Path) -> tuple[PreTrainedModel, TrainingLog]:
    """Train ESFT's banks in float32 beside frozen weights in bfloat16, as `backbone.precision: bf16` has it."""
    model, parameters = prepared(METHODS["esft-token"], dtype=torch.bfloat16)
    AcceleratorState._reset_state()  # accelerate holds a process to one precision
    try:
        with held(parameters):
            return model, train(model, parameters, sequences(), PLAIN, scratch, Options(mixed_precision="bf16"))
    finally:
        AcceleratorState._reset_state()


def stop(step: int, steps: int) -> None:
    """Interrupt a run after its third step."""
    if step == 3:
        raise StoppedError


@contextmanager
def reduced() -> Iterator[list[int]]:
    """The bytes of what FSDP2 sends of gradients while the block runs, one for each time it does."""
    seen: list[int] = []
    own = distributed.reduce_scatter_single

    def counting(*arguments: Any, **told: Any) -> Any:
        seen.append((told.get("input") if "input" in told else arguments[1]).nbytes)
        return own(*arguments, **told)

    distributed.reduce_scatter_single = counting
    try:
        yield seen
    finally:
        distributed.reduce_scatter_single = own


def gradients_of(model: PreTrainedModel) -> int:
    """The bytes of the gradients of all that is trained, first dimensions filled up to be shared evenly."""
    count = distributed.get_world_size()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = [-(-each.shape[0] // count) * count for each in trained]
    return sum(each.nbytes // each.shape[0] * number for each, number in zip(trained, rows, strict=True))


def train_all(folder: Path, sharded: bool) -> None:
    """Train every method."""
    counted: dict[str, tuple[int, int]] = {}
    for name in METHODS:
        scratch = folder / name / "whole"
        scratch.mkdir(parents=True, exist_ok=True)
        with reduced() as seen:
            model, _ = run(name, scratch, micro_batch=1)
        if sharded:
            passes = -(-SETTINGS.batch_size // distributed.get_world_size()) * SETTINGS.steps
            counted[name] = sum(seen), passes * gradients_of(model)
        # Not only unsharded gradients are exchanged: every parameter, the banks among them, is shared out.
        assert sharded == all(isinstance(parameter, DTensor) for parameter in model.parameters())
    if sharded and PartialState().is_main_process:
        (folder.parent / "reduced.json").write_text(json.dumps(counted))


def resume(folder: Path, left: Path | None) -> None:
    """Stop trainings in their middle, go on with them, and with those that others have left.

    They go on in chunks of another size, which are no part of what is computed.
    """
    for name in RESUMED:
        scratch = folder / name / "resumed"
        scratch.mkdir(parents=True, exist_ok=True)
        with suppress(StoppedError):
            run(name, scratch, checkpoint_every=2, progress=stop)
        if PartialState().is_main_process:
            shutil.copytree(scratch, folder / name / LEFT)
        PartialState().wait_for_everyone()
        run(name, scratch, micro_batch=1)
        if left and name in MOVED:
            run(name, left / name / "moved")


def part(folder: Path, left: Path | None = None) -> None:
    """Both strategies, one after the other."""
    train_all(folder / "ddp", sharded=False)
    if PartialState().num_processes == 2:
        resume(folder / "ddp", None)
    os.environ[SHARDED] = "1"
    train_all(folder / "fsdp2", sharded=True)
    resume(folder / "fsdp2", left)
    scratch = folder / "two types"
    scratch.mkdir(exist_ok=True)
    two_types(scratch)
    assert PartialState().num_processes > 1
