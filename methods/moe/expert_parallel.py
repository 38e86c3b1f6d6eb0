"""Expert parallelism: each process holds some experts of every layer, and tokens go to them and back (all-to-all).

Tokens are sent, run and combined by transformers' own parts (`ep_dispatch_experts`). Who holds which experts is not
theirs: transformers, as torch's DTensor, gives a process a contiguous range of ids, loads whole parameters that way and
trains all of them or none, while here selected experts, which lie anywhere, are spread evenly (`methods.moe.placement`)
and alone have gradients. So ids are put in the order in which they are held before tokens are sent, experts are read
one by one, and those of a process run by the selective implementation, with a bank of its own.

Shapes: T tokens, K experts a token, n rows that a process gets from all, E experts on P processes, S of them selected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed._functional_collectives import all_to_all_single
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel
from transformers.distributed.tensor_parallel import EpDispatchExpertsParallel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.experts import IMPLEMENTATION, UPDATES, add_part, arrange, bank_of, selected_experts
from esft_bench.methods.moe.observed import OBSERVER
from esft_bench.methods.moe.placement import place
from esft_bench.methods.moe.places import read_experts
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.methods.tensor_files import TensorFiles

ROWS = "rows_of_bank"
"""Where a bank's parameter keeps which rows of the whole bank it is."""
_THEIRS = EpDispatchExpertsParallel()


@dataclass(frozen=True)
class Rows:
    """The rows that a process holds of a whole bank of `total` experts; `mesh`: the processes that share it."""

    total: int
    held: tuple[int, ...]
    mesh: DeviceMesh


def rows_of(parameter: nn.Parameter) -> Rows | None:
    """Which rows of a whole bank a parameter is; None where it is no part of a bank that processes share."""
    return getattr(parameter, ROWS, None)


def hold_own_experts(
    model: PreTrainedModel, files: TensorFiles, mesh: DeviceMesh, dtype: torch.dtype
) -> list[nn.Module]:
    """Put this process's experts in place of all those of a model that a method has prepared on the meta device.

    They are read from `files`, none of the others are; banks become `dtype`. Gradients of banks come out as averages
    over the processes' losses. Returns the modules of experts. Every process calls this.

    Raises MethodError where anything but banks is trained in them, and where processes do not divide the experts.
    """
    layers = moe_layers(model)
    for layer in layers.values():
        _check(layer)
    selection = {index: selected_experts(layer) for index, layer in layers.items()}
    counts = {index: layer.num_experts for index, layer in layers.items()}
    group = distributed.new_group()  # FSDP2 sends by another one at the same time
    for index, placed in place(selection, counts, mesh.size()).items():
        layer, own = layers[index], placed[mesh.get_rank()]
        local = _with_room(layer, len(own), torch.device(mesh.device_type))
        read_experts(model, local, own, files)
        chosen = [expert for expert in own if expert in selection[index]]
        _make_bank(local, Rows(len(selection[index]), tuple(map(selection[index].index, chosen)), mesh), dtype)
        order = torch.tensor(list(chain(*placed)), device=mesh.device_type)
        layer.experts.forward = _Dispatched(layer.experts, order.argsort(), group, bool(selection[index]))
    return [layer.experts for layer in layers.values()]


def shapes_of_own(model: PreTrainedModel, processes: int) -> list[nn.Module]:
    """Leave shapes of the experts that the first process holds, none of which holds more, in place of all of a model.

    For estimates: nothing is read or sent. Returns the modules of experts.
    """
    layers = moe_layers(model)
    selection = {index: selected_experts(layer) for index, layer in layers.items()}
    counts = {index: layer.num_experts for index, layer in layers.items()}
    for index, (own, *_) in place(selection, counts, processes).items():
        local = _with_room(layers[index], len(own), torch.device("meta"))
        ids = range(len(set(own) & set(selection[index])))
        arrange(local, {"": ids} if ids else {})
        if ids:
            add_part(local, "", ids)
    return [layer.experts for layer in layers.values()]


def _check(layer: MoeLayer) -> None:
    """Raise MethodError for experts that are not trained by banks alone."""
    selective = getattr(layer.experts.config, "_experts_implementation", None) == IMPLEMENTATION
    trained = [kind for kind in layer.kinds if layer.experts.get_parameter(kind).requires_grad]
    updated = getattr(layer.experts, UPDATES, None)
    if trained or updated or not selective:
        raise MethodError(
            f"`{layer.name}` is not trained expert by expert, so its experts cannot be shared out; leave out "
            "training.expert_parallel"
        )


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


def _make_bank(layer: MoeLayer, rows: Rows, dtype: torch.dtype) -> None:
    """Train the first experts of a layer, as many as there are `rows`, which say where they are in the whole bank."""
    ids = range(len(rows.held))
    arrange(layer, {"": ids} if ids else {})
    for parameter in add_part(layer, "", ids) if ids else ():
        parameter.data = parameter.data.to(dtype)
        setattr(parameter, ROWS, rows)
        # It is the sum over all processes' tokens, and their losses count as many times as there are processes.
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
