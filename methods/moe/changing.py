"""Training other experts from now on: banks change while a model trains, and what was learned stays.

An expert that stays keeps its weights and, by what is returned, its optimizer state. One that leaves is written into
the fused tensor, rounded to its type, and so stays in the model and in the adapter. One that comes is copied from
there; the row of the fused tensor is then what it was at first again. Those that come at one time are a part of the
bank, parameters of their own: an optimizer counts the steps of each parameter (AdamW's bias correction goes by that),
so what begins now begins at its step 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from esft_bench.methods.changes import Changes, Done, Moved
from esft_bench.methods.moe.experts import add_part, arrange, bank_of, selected_experts
from esft_bench.methods.moe.selection import Selection
from esft_bench.methods.moe.view import MoeLayer, moe_layers

Parts = dict[str, tuple[int, ...]]
"""The experts of a bank by what the names of their parameters end in."""
ORIGINAL = "original_rows"
"""Where an experts module keeps what its fused tensors had at first of experts that left: rows by kind and expert."""


class ExpertChanges(Changes):
    """Changes of which experts are trained; a method says when, and to which."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.layers = moe_layers(model)

    def selection_after(self, done: Done) -> Selection | None:
        """The experts to train from now on; None for those that are trained now."""
        raise NotImplementedError

    def after(self, done: Done) -> Moved | None:
        """Train what `selection_after` says; None where those are trained already."""
        selection = self.selection_after(done)
        return None if selection is None else change_experts(self.layers, selection)

    def state_dict(self) -> dict[str, Tensor]:
        """Which experts are and were trained, and what those that left have learned."""
        states = {index: _layer_state(layer) for index, layer in self.layers.items()}
        return {f"{index}.{key}": value for index, state in states.items() for key, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give every layer the parts of a bank that it had, and what experts that left have learned."""
        dtype = _trained_dtype(self.layers)
        for index, layer in self.layers.items():
            own = {key.removeprefix(f"{index}."): value for key, value in state.items() if key.startswith(f"{index}.")}
            _load_layer(layer, own, dtype)


def left_experts(layer: MoeLayer) -> list[int]:
    """The expert ids that were in the layer's bank and are there no more: the fused tensors have what they learned."""
    return list(getattr(layer.experts, "left_ids", ()))


@torch.no_grad()
def change_experts(layers: Mapping[int, MoeLayer], selection: Mapping[int, Sequence[int]]) -> Moved | None:
    """Have the layers' banks hold the experts of `selection`, valid for them, from now on; see `Moved`.

    Returns None, and changes nothing, where they hold those already.
    """
    wanted = {index: selection.get(index, []) for index in layers}
    if all(set(wanted[index]) == set(selected_experts(layer)) for index, layer in layers.items()):
        return None
    dtype = _trained_dtype(layers)
    moved: dict[nn.Parameter, tuple[nn.Parameter, Tensor]] = {}
    for index, layer in layers.items():
        moved |= _change(layer, wanted[index], dtype)
    return moved


def _change(layer: MoeLayer, wanted: Sequence[int], dtype: torch.dtype | None) -> Moved:
    moved: dict[nn.Parameter, tuple[nn.Parameter, Tensor]] = {}
    before, after = _parts(layer), Parts()
    _settle(layer, wanted)
    for part, ids in before.items():
        stay = [row for row, expert in enumerate(ids) if expert in wanted]
        after[part] = tuple(ids[row] for row in stay)
        if len(stay) < len(ids):
            moved |= _keep_rows(layer, part, stay)
    trained = set(selected_experts(layer))
    if new := [expert for expert in wanted if expert not in trained]:
        part = f"_{1 + max((int(name[1:] or 0) for name in before), default=0)}"
        after[part] = tuple(new)
        _begin(layer, part, new, dtype)
        _restore(layer, new)
    left = (trained | set(left_experts(layer))) - set(wanted)
    layer.experts.left_ids = tuple(sorted(left))  # type: ignore[assignment]
    arrange(layer, {part: ids for part, ids in after.items() if ids})
    return moved


def _settle(layer: MoeLayer, wanted: Sequence[int]) -> None:
    """Write the experts of a layer's bank that are not `wanted` there any more into the fused tensors."""
    for part, ids in _parts(layer).items():
        rows = [row for row, expert in enumerate(ids) if expert not in wanted]
        for bank, kind in bank_of(layer).items() if rows else ():
            learned = layer.experts.get_parameter(f"{bank}{part}").detach()[rows]
            _write_rows(layer, kind, [ids[row] for row in rows], learned)


def _write_rows(layer: MoeLayer, kind: str, ids: Sequence[int], rows: Tensor) -> None:
    """Write experts into a fused tensor; what it had of them at first is kept in main memory, for `_restore`."""
    whole, kept = layer.experts.get_parameter(kind), layer.experts.__dict__.setdefault(ORIGINAL, {})
    for expert, row in zip(ids, rows, strict=True):
        kept.setdefault((kind, expert), whole[expert].detach().to("cpu", copy=True))
        whole[expert] = row.to(whole.device, whole.dtype)


def _restore(layer: MoeLayer, ids: Iterable[int]) -> None:
    """Make the rows of some experts in the fused tensors what they were at first."""
    kept = layer.experts.__dict__.get(ORIGINAL, {})
    for key in [(kind, expert) for kind in layer.kinds for expert in ids if (kind, expert) in kept]:
        layer.experts.get_parameter(key[0])[key[1]] = kept.pop(key)


def _keep_rows(layer: MoeLayer, part: str, rows: Sequence[int]) -> Moved:
    """Replace a part of a bank by some of its rows; where there are none, drop it."""
    moved: dict[nn.Parameter, tuple[nn.Parameter, Tensor]] = {}
    for bank in bank_of(layer):
        old = layer.experts.get_parameter(f"{bank}{part}")
        delattr(layer.experts, f"{bank}{part}")
        if rows:
            places = torch.tensor(rows, device=old.device)
            kept = nn.Parameter(old.detach()[places])
            layer.experts.register_parameter(f"{bank}{part}", kept)
            moved[kept] = (old, places)
    return moved


def _parts(layer: MoeLayer) -> Parts:
    return dict(layer.experts.bank_parts)  # type: ignore[arg-type]


def _trained_dtype(layers: Mapping[int, MoeLayer]) -> torch.dtype | None:
    """The type that banks are held in while they train, which their optimizer says; None where there are none."""
    found = (
        layer.experts.get_parameter(f"{bank}{part}").dtype
        for layer in layers.values()
        for part in _parts(layer)
        for bank in bank_of(layer)
    )
    return next(found, None)


def _layer_state(layer: MoeLayer) -> dict[str, Tensor]:
    """`parts` [S, 2]: part's number and expert for each row of the bank; `left` [n], and what these have learned."""
    left = left_experts(layer)
    parts = [(int(name[1:] or 0), expert) for name, ids in _parts(layer).items() for expert in ids]
    state = {"parts": torch.tensor(parts, dtype=torch.long).reshape(-1, 2), "left": torch.tensor(left).long()}
    if left:
        state |= {f"left.{kind}": layer.experts.get_parameter(kind).detach()[left] for kind in layer.kinds}
    return state


@torch.no_grad()
def _load_layer(layer: MoeLayer, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    parts, left = Parts(), state["left"].tolist()
    for number, expert in state["parts"].tolist():
        name = f"_{number}" if number else ""
        parts[name] = (*parts.get(name, ()), expert)
    _restore(layer, left_experts(layer))
    for kind in layer.kinds if left else ():
        _write_rows(layer, kind, left, state[f"left.{kind}"])
    if parts != _parts(layer):
        for name in _parts(layer):
            _keep_rows(layer, name, [])
        for name, ids in parts.items():
            _begin(layer, name, ids, dtype)
        arrange(layer, parts)
    layer.experts.left_ids = tuple(left)  # type: ignore[assignment]


def _begin(layer: MoeLayer, part: str, ids: Sequence[int], dtype: torch.dtype | None) -> None:
    for parameter in add_part(layer, part, ids):
        parameter.data = parameter.data.to(dtype or parameter.dtype)
