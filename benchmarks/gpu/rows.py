"""What is measured: methods as training prepares them, and full fine-tuning on others' experts kernels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

import benchmarks.gpu.peers  # noqa: F401  registers them
from benchmarks.step_time import peft_form
from esft_bench.methods.attention_router import AttentionRouter
from esft_bench.methods.das_experts import DasExperts
from esft_bench.methods.das_lora import DasLora
from esft_bench.methods.densemixer import DenseMixer
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.frozen_router import FrozenRouter
from esft_bench.methods.kappa import Kappa
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe_sieve import MoeSieve
from esft_bench.methods.router_only import RouterOnly
from esft_bench.spec.training import Optimizer


@dataclass(frozen=True)
class Row:
    """One way to train.

    Attributes:
        method: what is trained.
        experts: name of an implementation that runs the experts instead of the method's own.
        mixed: what is trained is float32 while it is, as in a run with `precision: bf16`; else all is bf16, AdamW's
            states too, which saves half of the memory and rounds small steps away.
        checkpointing: layers are computed again in the backward pass.
        peft_form: peft's own forward computes LoRA's updates of experts, through the product of their factors.
        optimizer: the optimizer of the step; without one gradients are dropped as they come: a lower bound of the step.
        rounds: how many steps are timed.
    """

    method: Method
    experts: str = ""
    mixed: bool = True
    checkpointing: bool = False
    peft_form: bool = False
    optimizer: Optimizer | None = "adamw"
    rounds: int = 10

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Prepare `model`, in place; returns what is trained."""
        parameters = self.method.prepare(model, context)
        if self.experts:
            model.set_experts_implementation(self.experts)
        if self.peft_form:
            peft_form(model)
        return parameters


OWN: dict[str, Row] = {
    "FFT": Row(FullFineTuning()),
    "FFT, all in bf16": Row(FullFineTuning(), mixed=False),
    "FFT, all in bf16, passes alone": Row(FullFineTuning(), mixed=False, optimizer=None),
    "attention and routers": Row(AttentionRouter()),
    "LoRA on attention, rank 8": Row(Lora()),
    "LoRA on attention and experts, rank 8": Row(Lora(experts=True)),
    "ESFT-Token": Row(EsftToken()),
    "ESFT-Gate": Row(EsftGate()),
    "DAS experts": Row(DasExperts()),
    "ESFT-Token, gradient checkpointing": Row(EsftToken(), checkpointing=True),
    "ESFT-Gate, gradient checkpointing": Row(EsftGate(), checkpointing=True),
}
"""The methods on our experts kernel."""
LATER: dict[str, Row] = {
    "FFT, bf16 with stochastic rounding": Row(FullFineTuning(), optimizer="adamw-bf16-stochastic"),
    "FFT, 8-bit states": Row(FullFineTuning(), optimizer="adamw-8bit"),
    "ESFT-Token, bf16 with stochastic rounding": Row(EsftToken(), optimizer="adamw-bf16-stochastic"),
    "frozen router, bf16 with stochastic rounding": Row(FrozenRouter(), optimizer="adamw-bf16-stochastic"),
    "DenseMixer, bf16 with stochastic rounding": Row(DenseMixer(), optimizer="adamw-bf16-stochastic"),
    "routers alone": Row(RouterOnly()),
    "LoRA on the most used experts": Row(MoeSieve()),
    "LoRA on DAS experts": Row(DasLora()),
    "best-conditioned experts": Row(Kappa()),
}
"""Newer methods, and optimizers that need less memory, on our experts kernel."""


def _peers(title: str, row: Callable[[str], Row], names: Sequence[str]) -> dict[str, Row]:
    return {f"{title}, {name.replace('-package', ', default tiles')}": row(name) for name in names}


PEERS: dict[str, Row] = {
    **_peers(
        "FFT, all in bf16, passes alone",
        lambda name: Row(FullFineTuning(), name, mixed=False, optimizer=None),
        ("grouped_mm", "scattermoe", "sonicmoe-package"),
    ),
    **_peers("LoRA on attention, rank 8", lambda name: Row(Lora(), name), ("grouped_mm",)),
    "LoRA on attention and experts, rank 8, peft's form": Row(Lora(experts=True), peft_form=True),
    **_peers(
        "FFT, all in bf16, passes alone",
        lambda name: Row(FullFineTuning(), name, mixed=False, optimizer=None, rounds=2),
        ("eager", "batched_mm"),
    ),
}
"""The same models on others' kernels: of a step, the passes are what kernels differ in."""
ROWS = OWN | LATER | PEERS
