"""Expert parallelism: each process holds some experts of every layer, and tokens go to them and back (all-to-all).

Tokens are sent, run and combined by transformers' own parts (`ep_dispatch_experts`). Who holds which experts is not
theirs: transformers, as torch's DTensor, gives a process a contiguous range of ids, loads whole parameters that way and
trains all of them or none, while here selected experts, which lie anywhere, are spread evenly (`methods.moe.placement`)
and alone have gradients. So ids are put in the order in which they are held before tokens are sent, experts are read
one by one, and those of a process run by the selective implementation, with a bank of its own; or, where all experts
are trained, without one.

Shapes: T tokens, K experts a token, n rows that a process gets from all, E experts on P processes, S of them selected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed._functional_collectives import all_to_all_single
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.distributed.tensor_parallel import EpDispatchExpertsParallel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.dense_gate import IMPLEMENTATION as DENSE_GATE
from esft_bench.methods.moe.dense_gate import products_of_own, with_dense_gates
from esft_bench.methods.moe.experts import (
    IMPLEMENTATION,
    UPDATES,
    add_part,
    arrange,
    bank_of,
    selected_experts,
)
from esft_bench.methods.moe.low_rank import LowRank
from esft_bench.methods.moe.observed import OBSERVER
from esft_bench.methods.moe.placement import Placement, place
from esft_bench.methods.moe.places import read_experts
from esft_bench.methods.moe.updates import Factors
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.methods.tensor_files import TensorFiles

ROWS = "rows_of_bank"
"""Where a parameter keeps which rows of a whole one it is: a bank's, or an update's of it, or those of all experts."""
_THEIRS = EpDispatchExpertsParallel()


@dataclass(frozen=True)
class Rows:
    """The rows that a process holds of a parameter of `total` experts; `mesh`: the processes that share it."""

    total: int
    held: tuple[int, ...]
    mesh: DeviceMesh


def rows_of(parameter: nn.Parameter) -> Rows | None:
    """Which rows of a whole parameter one is; None where it is no part of one that processes share."""
    return getattr(parameter, ROWS, None)


def hold_own_experts(
    model: PreTrainedModel, files: TensorFiles, mesh: DeviceMesh, dtype: torch.dtype
) -> list[nn.Module]:
    """Put this process's experts in place of all those of a model that a method has prepared on the meta device.

    They are read from `files`, none of the others are; what is trained of them becomes `dtype`. Gradients come out as
    averages over the processes' losses. Returns the modules of experts. Every process calls this.

    Raises MethodError where they are trained in another way than `_Trained` says, and where processes do not divide
    them.
    """
    layers = moe_layers(model)
    trained = {index: _Trained.of(layer) for index, layer in layers.items()}
    group = distributed.new_group()  # FSDP2 sends by another one at the same time
    for index, placed in _placed(layers, trained, mesh.size()).items():
        layer, own, what = layers[index], placed[mesh.get_rank()], trained[index]
        local = _with_room(layer, len(own), torch.device(mesh.device_type))
        read_experts(model, local, own, files)
        held = what.held(own)
        for parameter in what.train(local, held):
            _share_out(parameter, Rows(what.total(layer), held, mesh), dtype)
        _update_own(layer, torch.tensor(own, device=mesh.device_type))
        order = torch.tensor(list(chain(*placed)), device=mesh.device_type)
        layer.experts.forward = _Dispatched(layer.experts, order.argsort(), group, what.total(layer) > 0)
    return [layer.experts for layer in layers.values()]


def shapes_of_own(model: PreTrainedModel, processes: int) -> list[nn.Module]:
    """Leave shapes of the experts that the first process holds, none of which holds more, in place of all of a model.

    For estimates: nothing is read or sent. Returns the modules of experts.
    """
    layers = moe_layers(model)
    trained = {index: _Trained.of(layer, run_by=()) for index, layer in layers.items()}
    for index, (own, *_) in _placed(layers, trained, processes).items():
        local = _with_room(layers[index], len(own), torch.device("meta"))
        trained[index].train(local, trained[index].held(own))
        _update_own(layers[index], torch.tensor(own))
    return [layer.experts for layer in layers.values()]


def _placed(layers: Mapping[int, MoeLayer], trained: Mapping[int, _Trained], processes: int) -> Placement:
    selection = {index: what.selected for index, what in trained.items()}
    return place(selection, {index: layer.num_experts for index, layer in layers.items()}, processes)


@dataclass(frozen=True)
class _Trained:
    """What is trained of the experts of a layer.

    Attributes:
        selected: those in its bank, in order.
        updates: what is trained in place of the bank: low-rank updates of its parameters, by their names.
        every: whether all weights of all experts are trained, which then have no bank.
    """

    selected: Sequence[int]
    updates: Mapping[str, LowRank]
    every: bool

    @classmethod
    def of(cls, layer: MoeLayer, run_by: Sequence[str] = (IMPLEMENTATION, DENSE_GATE)) -> _Trained:
        """Take it off a layer. Raises MethodError for anything else that is trained, or experts `run_by` none of these.

        These run a process's own experts alike.
        """
        trains = {layer.experts.get_parameter(kind).requires_grad for kind in layer.kinds}
        selected, runs = selected_experts(layer), getattr(layer.experts.config, "_experts_implementation", None)
        mixed = len(trains) > 1 or (True in trains and selected)
        if mixed or (run_by and runs not in run_by):
            raise MethodError(
                f"`{layer.name}` is not trained expert by expert, so its experts cannot be shared out; leave out "
                "training.expert_parallel"
            )
        return cls(selected, _taken_updates(layer), True in trains)

    def held(self, own: Sequence[int]) -> tuple[int, ...]:
        """Which rows of what is trained a process has that holds its `own` experts: numbers of the bank's, or ids."""
        return tuple(own if self.every else [self.selected.index(expert) for expert in own if expert in self.selected])

    def total(self, layer: MoeLayer) -> int:
        """How many experts of the whole layer are trained."""
        return layer.num_experts if self.every else len(self.selected)

    def train(self, local: MoeLayer, held: Sequence[int]) -> Iterable[nn.Parameter]:
        """Train rows that are `held` of it, of a layer in which these experts come first; returns the parameters."""
        ids = range(0 if self.every else len(held))
        arrange(local, {"": ids} if ids else {})
        if self.every:
            every = [local.experts.get_parameter(kind) for kind in local.kinds]
            for parameter in every:
                parameter.requires_grad_(True)
            return every
        bank = add_part(local, "", ids) if ids else []
        if not self.updates:
            return bank
        for parameter in bank:
            parameter.requires_grad_(False)
        return chain(*(_update(local.experts, name, each, held) for name, each in self.updates.items() if ids))


def _taken_updates(layer: MoeLayer) -> dict[str, LowRank]:
    """The low-rank updates of a layer's bank, which is left without them."""
    found: dict[str, LowRank] = {}
    for name in bank_of(layer):
        if parametrize.is_parametrized(layer.experts, name):
            update = layer.experts.get_submodule(f"parametrizations.{name}.0")
            assert isinstance(update, LowRank)
            found[name] = update
            parametrize.remove_parametrizations(layer.experts, name, leave_parametrized=False)
    return found


def _update(experts: nn.Module, name: str, whole: LowRank, held: Sequence[int]) -> Iterable[nn.Parameter]:
    """Give a bank some rows of an update; returns what is trained."""
    part = whole.of(held, experts.get_parameter(name))
    parametrize.register_parametrization(experts, name, part)
    return part.parameters()


def _with_room(layer: MoeLayer, count: int, device: torch.device) -> MoeLayer:
    """The same layer with room for `count` experts in place of its own, and no bank."""
    experts = layer.experts
    for name in bank_of(layer):
        experts._parameters.pop(name, None)
    for kind in layer.kinds:
        whole = experts.get_parameter(kind)
        room = torch.empty(count, *whole.shape[1:], dtype=whole.dtype, device=device)
        experts.register_parameter(kind, nn.Parameter(room, requires_grad=False))
    experts.num_experts = count  # type: ignore[assignment]
    return replace(layer, num_experts=count)


def _update_own(layer: MoeLayer, own: Tensor) -> None:
    """Have a process's `own` experts take their factors of the updates that all processes share, if there are any.

    Of these each process has the gradients of its own, from all tokens; averaged over processes they are the losses'.
    """
    whole: Mapping[str, Callable[[], Factors]] = getattr(layer.experts, UPDATES, {})
    if whole:
        setattr(layer.experts, UPDATES, {kind: partial(_of_own, each, own) for kind, each in whole.items()})


def _of_own(factors: Callable[[], Factors], own: Tensor) -> Factors:
    return [(left[own], right[own]) for left, right in factors()]


def _share_out(parameter: nn.Parameter, rows: Rows, dtype: torch.dtype) -> None:
    """Let a parameter be some rows of a whole one, trained in `dtype`."""
    parameter.data = parameter.data.to(dtype)
    setattr(parameter, ROWS, rows)
    # Its gradient is the sum over all processes' tokens, and their losses count as often as there are processes.
    parameter.register_hook(partial(torch.mul, other=1 / rows.mesh.size()))  # type: ignore[no-untyped-call]


@dataclass
class _Dispatched:
    """The forward of an experts module whose experts several processes hold.

    Attributes:
        experts: the module with this process's experts, run by `own`.
        places: [E] where an expert is among all, those of the first process first.
        trained: whether any process trains experts of the layer.
    """

    experts: Any
    places: Tensor
    group: distributed.ProcessGroup
    trained: bool

    def __post_init__(self) -> None:
        self.own = self.experts.forward

    def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """[T, H], [T, K], [T, K] → [T, H]; every process calls it as often as the others."""
        told = (hidden_states, top_k_index, top_k_weights)
        return with_dense_gates(self.experts, *told, self._dispatch, self._products)

    def _products(self, experts: Any, grad: Tensor, hidden: Tensor) -> Tensor:
        """`products_of_own` of all experts: each process takes all tokens, and sends back what its experts made."""
        size, own = self.group.size(), [len(hidden)] * self.group.size()
        counts = torch.tensor(own, device=hidden.device)
        others = all_to_all_single(counts, None, None, self.group).tolist()
        every = (all_to_all_single(each.repeat(size, 1), others, own, self.group) for each in (grad, hidden))
        made = all_to_all_single(products_of_own(experts, *every), own, others, self.group)
        placed = made.view(size, len(hidden), -1).transpose(0, 1).flatten(1)  # [T, E], those of the first process first
        return placed[:, self.places]

    def _dispatch(self, experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The same, with the gates' gradients from the experts that are chosen."""
        count, size = self.experts.num_experts, self.group.size()
        placed = self.places[top_k_index]
        rows, ids, order, sent, got = _THEIRS._dispatch_tokens(hidden_states, placed, count, self.group, size)
        observer = self.experts.__dict__.get(OBSERVER)
        norms: list[Tensor] = []
        if observer:
            self.experts.__dict__[OBSERVER] = lambda index, weights, seen: norms.append(seen)
        out = _THEIRS._run_local_experts(self._run, rows, ids)
        if observer:
            self.experts.__dict__[OBSERVER] = observer
            back = torch.empty(len(order), 1, dtype=norms[0].dtype, device=order.device)
            back[order] = all_to_all_single(norms[0][: len(rows)], sent, got, self.group)
            observer(top_k_index, top_k_weights, back.view_as(top_k_weights))
        combined: Tensor = _THEIRS._combine_tokens(out, top_k_weights, order, sent, got, self.group)
        return combined.to(hidden_states.dtype)

    def _run(self, rows: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Run this process's experts: [n, H], [n, 1], [n, 1] → [n, H]."""
        out: Tensor = self.own(rows, ids, weights)
        if self.trained and torch.is_grad_enabled() and not out.requires_grad:
            out = _Awaited.apply(out, torch.zeros((), requires_grad=True))  # type: ignore[no-untyped-call]
        return out


class _Awaited(torch.autograd.Function):
    """Have gradients sent to rows that need none: in the lowest trained layer others send theirs, and all must."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, anchor: Tensor) -> Tensor:
        """The rows as they are; `anchor` asks for gradients."""
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        """None to anything."""
        return None, None
