"""Low-rank updates of selected experts: each projection of each selected expert is W + alpha/rank · B A (2106.09685).

The bank of selected experts (see `methods.moe.experts`) stays frozen and gets the update as a parametrization, so the
selective forward reads W + update in its place, and only the factors are trained. Biases stay as they are.

Shapes: S selected experts, P projections in one fused tensor (gate and up: 2, down: 1), rank R. Where checkpoints keep
gate and up in one tensor, they are one projection with one update of rank R, as peft has it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from esft_bench.methods.atomic import write_tensors
from esft_bench.methods.errors import MethodError
from esft_bench.methods.hub import WEIGHTS
from esft_bench.methods.moe.experts import BANK, bank_of, selected_experts, use_selective_experts
from esft_bench.methods.moe.export import form, per_expert
from esft_bench.methods.moe.view import UP, MoeLayer, moe_layers
from esft_bench.methods.overlay import check_fits
from esft_bench.methods.tensor_files import tensor_files

A, B = ".lora_A.weight", ".lora_B.weight"
"""What stands in an adapter for `.weight` in the name of an updated tensor [out, in]: A [R, in] and B [out, R].

A checkpoint that keeps its weights transposed, [in, out], has Bᵀ as A and Aᵀ as B: its tensor is always W + B A.
"""


_BANKS = {kind: bank for bank, kind in BANK.items()}


class LowRank(nn.Module):
    """The update of a bank [S, P·out, in]: `a` [S, P, R, in] starts random, `b` [S, P, out, R] as zeros.

    The bank may be transposed, [S, in, P·out].
    """

    def __init__(self, bank: Tensor, projections: int, rank: int, scaling: float, transposed: bool = False) -> None:
        super().__init__()
        self.projections = projections
        experts, rows, columns = bank.mT.shape if transposed else bank.shape
        self.a = nn.Parameter(bank.new_empty(experts, projections, rank, columns))
        self.b = nn.Parameter(bank.new_zeros(experts, projections, rows // projections, rank))
        self.scaling, self.transposed = scaling, transposed

    def draw(self, device: str | None = None) -> None:
        """Begin: `a` from torch's global generator, `b` as zeros; on a `device`, or where they are."""
        bound = 1 / math.sqrt(self.a.shape[-1])  # LoRA's own, that of a linear layer
        self.a = nn.Parameter(torch.empty_like(self.a, device=device).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros_like(self.b, device=device))

    def forward(self, bank: Tensor) -> Tensor:
        """The bank with the update added."""
        update = self.scaling * (self.b @ self.a).flatten(1, 2)
        return bank + (update.mT if self.transposed else update)

    def of(self, rows: Sequence[int], bank: Tensor) -> "LowRank":
        """The update of `bank`, which is some `rows` of the one that this is of."""
        part = LowRank(bank, self.projections, self.a.shape[2], self.scaling, self.transposed)
        with torch.no_grad():
            part.a.copy_(self.a[list(rows)])
            part.b.copy_(self.b[list(rows)])
        return part

    def factors(self) -> dict[str, Tensor]:
        """A [S, P·R, in] and B [S, P·out, R] as in an adapter, the scaling in B."""
        a, b = self.a.detach().flatten(1, 2), (self.scaling * self.b).detach().flatten(1, 2)
        return {A: b.mT, B: a.mT} if self.transposed else {A: a, B: b}


def use_low_rank_experts(
    model: PreTrainedModel,
    selection: Mapping[int, Sequence[int]],
    rank: int,
    scaling: float,
    unread: bool = False,
) -> None:
    """Give each selected expert of each layer (layer number → expert ids) trainable factors, in place.

    `selection` must be valid for the model. Draws from torch's global generator. Nothing else becomes trainable.
    Where the model's weights are `unread` factors are real all the same, in main memory.
    Raises MethodError as `use_selective_experts` does, and where checkpoints keep weights in a form without factors.
    """
    layers = moe_layers(model)
    use_selective_experts(model, selection)
    for layer in layers.values():
        for name, kind in bank_of(layer).items() if selected_experts(layer) else ():
            bank = layer.experts.get_parameter(name).requires_grad_(False)
            if kind in layer.weights:
                transposed = bool(layer.experts.is_transposed)
                projections = _projections(model, layer, kind, transposed)
                update = LowRank(bank, projections, rank, scaling, transposed)
                parametrize.register_parametrization(layer.experts, name, update)
                update.draw("cpu" if unread else None)


def _projections(model: PreTrainedModel, layer: MoeLayer, kind: str, transposed: bool) -> int:
    """How many projections the checkpoint's tensors of a fused parameter have."""
    stored = form(model, layer, kind)
    if stored == "converted" or (stored == "single" and transposed):
        raise MethodError(
            f"checkpoints of {type(model).__name__} keep `{layer.name}.{kind}` otherwise than the model does, which "
            "low-rank updates of single experts do not support; take the method esft-token or lora"
        )
    return 2 if kind == UP[0] and stored == "single" else 1


def write_low_rank(model: PreTrainedModel, folder: Path) -> None:
    """Write the factors of every expert and projection, the scaling multiplied into B."""
    tensors: dict[str, Tensor] = {}
    for layer in moe_layers(model).values():
        for kind in layer.weights if selected_experts(layer) else ():
            update = layer.experts.get_submodule(f"parametrizations.{_BANKS[kind]}.0")
            assert isinstance(update, LowRank)
            for suffix, factor in update.factors().items():
                split = per_expert(model, layer, {f"{layer.name}.{kind}": factor})
                tensors |= {name.removesuffix(".weight") + suffix: tensor for name, tensor in split.items()}
    write_tensors(folder / WEIGHTS, tensors)


def write_updated(base: Path, adapter: Path, folder: Path) -> None:
    """Write into `folder` the tensors of the checkpoint `base` that `adapter` updates, in float32, updated.

    Raises MethodError where `adapter` holds anything but pairs of factors, or factors of tensors that `base` lacks.
    """
    write_tensors(folder / WEIGHTS, dict(_updated(base, adapter)))


def _updated(base: Path, adapter: Path) -> Iterator[tuple[str, Tensor]]:
    old, factors = tensor_files(base), tensor_files(adapter)
    stems = {name.removesuffix(A) for name in factors.files if name.endswith(A)}
    if not stems or set(factors.files) != {stem + suffix for stem in stems for suffix in (A, B)}:
        raise MethodError(f"{adapter} is no low-rank adapter of experts: it must hold pairs of `*{A}` and `*{B}`")
    for stem in sorted(stems):
        a, b = factors.read(stem + A), factors.read(stem + B)
        name = stem if old.holds(stem) else f"{stem}.weight"
        check_fits(name, [len(b), a.shape[1]], old, adapter)
        yield name, torch.addmm(old.read(name).float(), b.float(), a.float())
