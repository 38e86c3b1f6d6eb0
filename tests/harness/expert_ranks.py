"""What each process runs for test_expert_parallel (`part`): experts shared out, whole and not.

BASES/ARCHITECTURE are checkpoints. What came out lies in FOLDER/whole and, of cases that go on, …/resumed and …/left,
as the training loop's checkpoint, and in LEFT, where it went on from what another number of processes had left. In
FOLDER/held.json stands what each process held.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from esft_bench.harness.backbone.model import load_shapes
from esft_bench.harness.training.loop import Options, TrainingLog, train
from esft_bench.harness.training.together.machines import SHARDED
from esft_bench.methods.all_experts import AllExperts
from esft_bench.methods.attention_router import AttentionRouter
from esft_bench.methods.das import DasTune
from esft_bench.methods.densemixer import DenseMixer
from esft_bench.methods.densemixer_lora import DenseMixerLora
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.kappa import Kappa
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Method
from esft_bench.methods.moe.places import read_tensor
from esft_bench.methods.moe.unread import Unread
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.methods.tensor_files import tensor_files
from tests.conftest import build
from tests.harness.ranks import LEFT, SETTINGS, StoppedError, looks_at, sequences, stop
from tests.methods.helpers import seen_by

SELECTED: Mapping[str, tuple[str, Method]] = {
    "olmoe gate": ("olmoe", EsftGate(p=0.3)),
    "deepseek gate": ("deepseek-v2", EsftGate(p=0.4)),
    "deepseek shared": ("deepseek-v2", EsftToken(p=0.5, shared_experts=True)),
    "qwen2 shared": ("qwen2-moe", EsftToken(p=0.5, shared_experts=True)),
    "qwen3 token": ("qwen3-moe", EsftToken(p=0.5)),
    "mixtral gate": ("mixtral", EsftGate(p=0.5)),
    "deepseek-v3 token": ("deepseek-v3", EsftToken(p=0.5)),
    "granite token": ("granite-moe", EsftToken(p=0.5)),
    "gpt-oss token": ("gpt-oss", EsftToken(p=0.5)),
}
"""Cases by name, an architecture and a method: every architecture; two train what all processes share besides."""
OTHERS: Mapping[str, tuple[str, Method]] = {
    "fft": ("deepseek-v2", FullFineTuning()),
    "fft of fused experts": ("gpt-oss", FullFineTuning()),
    "das stage 1": ("deepseek-v2", AttentionRouter()),
    "das stage 2": ("deepseek-v2", DasTune(count=5)),
    "kappa": ("olmoe", Kappa(count=3)),
    "lora of experts": ("deepseek-v2", Lora(rank=2, experts=True)),
    "lora of transposed experts": ("gpt-oss", Lora(rank=2, experts=True)),
    "esft-lora": ("deepseek-v2", EsftLora(p=0.4, rank=2)),
    "esft-lora of fused experts": ("granite-moe", EsftLora(p=0.5, rank=2)),
    "all experts": ("olmoe", AllExperts()),
    "lora and routers": ("deepseek-v3", Lora(rank=2, routers=True)),
    "densemixer": ("deepseek-v2", DenseMixer()),
    "densemixer-lora": ("qwen3-moe", DenseMixerLora(rank=2, dropout=0.0)),
}
"""What is trained of experts is all of them, nothing, low-rank updates, or what a look at their weights says."""
CASES = {**SELECTED, **OTHERS}
GO_ON = ("olmoe gate", "gpt-oss token", "fft", "das stage 2", "esft-lora", "lora of experts", "densemixer-lora")
"""Cases that are stopped, and gone on with by as many processes and by fewer."""
LOOKED_AT = ("olmoe gate", "gpt-oss token", "fft", "lora of experts", "das stage 2")
"""Cases in which the model is looked at while it trains."""
FOUR = tuple(dict.fromkeys((*SELECTED, *GO_ON)))
"""Cases that four processes train, too."""
SAVING = SETTINGS.model_copy(update={"gradient_checkpointing": True})


def prepared(case: str, model: PreTrainedModel, base: Path | None = None) -> list[torch.nn.Parameter]:
    """Make a case's model ready, by the profiles that the whole one gives; one without weights is that of `base`."""
    architecture, method = CASES[case]
    unread = Unread(tensor_files(base)) if base else None
    return list(method.prepare(model, replace(seen_by(build(architecture)), unread=unread)))


def run(case: str, model: PreTrainedModel, scratch: Path, **more: Any) -> TrainingLog:
    """Train a case's model, alone or with others."""
    layers = moe_layers(model)
    parameters = prepared(case, model, more.get("apart"))
    scratch.mkdir(parents=True, exist_ok=True)
    if case not in LOOKED_AT:
        settings = SAVING.model_copy(update={"evaluate_every": None, "profile_every": None})
        return train(model, parameters, sequences(), settings, scratch, Options(**more))
    looks: dict[str, Any] = {"held_out": list(islice(sequences(), 3)), **looks_at(model, layers)}
    return train(model, parameters, sequences(), SAVING, scratch, Options(**looks, **more))


def digests(layer: MoeLayer) -> list[str]:
    """A digest of all that each expert of a layer consists of, but for its bank."""
    parts = [layer.experts.get_parameter(kind).detach() for kind in layer.kinds]
    return [
        sha256(b"".join(own.numpy().tobytes() for own in expert)).hexdigest() for expert in zip(*parts, strict=True)
    ]


def held(model: PreTrainedModel, base: Path) -> dict[str, Any]:
    """How many experts this process has of each layer, which, how many in a bank, and their bytes.

    Raises AssertionError where anything frozen is not, to the last bit, what the checkpoint has.
    """
    layers, files = moe_layers(model), tensor_files(base)
    for name, parameter in model.named_parameters():
        experts = ".experts." in name and ".lora_" not in name  # updates of peft's are shared as all else is
        assert isinstance(parameter, DTensor) != experts, name
        if experts or parameter.requires_grad:
            continue
        assert isinstance(parameter, DTensor)
        assert torch.equal(parameter.full_tensor(), read_tensor(model, name, files)), name
    return {
        "experts": [layer.experts.get_parameter("down_proj").shape[0] for layer in layers.values()],
        "trained": [len(layer.experts.selected_ids) for layer in layers.values()],  # type: ignore[arg-type]
        "rows": [digests(layer) for layer in layers.values()],
        "bytes": sum(parameter.nbytes for layer in layers.values() for parameter in layer.experts.parameters()),
    }


def part(case: str, bases: Path, folder: Path, left: Path | None = None) -> None:
    """Train a case, whole and, where it goes on, stopped and gone on with."""
    os.environ[SHARDED] = "1"
    base = bases / CASES[case][0]
    told: dict[str, Any] = {"apart": base}
    model = load_shapes(base)
    run(case, model, folder / "whole", **told)
    seen = gather_object([held(model, base)])
    if PartialState().is_main_process:
        (folder / "held.json").write_text(json.dumps(seen))
    if case not in GO_ON:
        return
    with suppress(StoppedError):
        run(case, load_shapes(base), folder / "resumed", checkpoint_every=2, progress=stop, **told)
    if PartialState().is_main_process:
        shutil.copytree(folder / "resumed", folder / LEFT)
    PartialState().wait_for_everyone()
    run(case, load_shapes(base), folder / "resumed", micro_batch=1, **told)
    if left:
        run(case, load_shapes(base), left, **told)
