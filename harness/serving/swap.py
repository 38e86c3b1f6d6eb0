"""A vLLM worker extension: takes what a cell changes into a running server, and the base's back for what it does not.

vLLM mixes the class into its workers (`--worker-extension-cls`); the harness calls it through `/collective_rpc`. This
file, `loads.py` and `packing.py` run inside vLLM.

vLLM's own reload of weights takes whole layers and packs each anew: q, k and v together, all experts of a layer
together. So a layer gets its changed tensors and, beside them, the base's for the rest of it. Of experts only those
that change, packed by vLLM as a layer of so few. One that does not change is packed along, as a witness: where it comes
out other than it is served, packing is no matter of single experts here, and the whole layer is taken.
"""

import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import set_current_vllm_config
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from esft_bench.harness.serving.loads import Loads, loads_of
from esft_bench.harness.serving.packing import Packed, by_experts, forget, packed, proven, served
from esft_bench.methods.overlay import Overlaid, overlaid

BLOCK = re.compile(r".*?\.\d+\.")
"""The part of a tensor's name that those of one decoder layer share."""
EXPERT = re.compile(r"\.experts\.(\d+)\.")


class WeightSwap:
    """Methods that a vLLM worker gains. `model_runner` and `vllm_config` are the worker's own.

    `esft_differs` are the tensors in which the model served differs from the checkpoint it was started on, None where
    that is not known; `esft_mark` is what the client said that made the last swap, by which it sees that no other came
    after it.
    """

    model_runner: Any
    vllm_config: Any
    esft_differs: frozenset[str] | None = frozenset()
    esft_mark: str = ""

    def swap_weights(self, base: str, changed: list[str], names: list[str], mark: str = "") -> dict[str, Any]:
        """Make the tensors `names` of what is served those of `base` with the changes in the folders `changed`.

        Returns the seconds it took, in `left` the layers that do not serve what they were to, and in `packed_alone`
        how many experts were packed without the others of their layers; `before` is the mark of the swap before.
        """
        begin, held = time.perf_counter(), self.esft_differs
        tensors = overlaid(Path(base), [Path(folder) for folder in changed])
        swap = Swap(self.model_runner.get_model(), tensors, set(names))
        before, self.esft_mark, self.esft_differs = self.esft_mark, mark, None
        with set_current_vllm_config(self.vllm_config), torch.no_grad(), _quiet_reload():
            left = swap.run(self.vllm_config.model_config)
        if not left and (held is not None or swap.names >= tensors.base.files.keys()):
            self.esft_differs = ((held or frozenset()) - swap.names) | (swap.names & tensors.names)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "left": left, "packed_alone": swap.packed_alone, "before": before}

    def esft_served(self, token: str = "") -> dict[str, Any]:
        """What is served, and by what: for a client that did not start the server.

        `token` is a file that the client has written where models will lie: what is in it, as far as it is seen here.
        """
        config, file = self.vllm_config.model_config, Path(token)
        return {
            "base": config.model,
            "dtype": str(config.dtype).removeprefix("torch."),
            "generation_config": config.generation_config,
            "differs": None if self.esft_differs is None else sorted(self.esft_differs),
            "mark": self.esft_mark,
            "sees": file.read_text("utf-8") if token and file.is_file() else "",
        }


@contextmanager
def _quiet_reload() -> Iterator[None]:
    """Keep vLLM from a warning for each layer that nothing is loaded into."""
    logger = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass
class Swap:
    """A swap under way.

    Attributes:
        model: as vLLM serves it.
        tensors: a base and changes in it.
        names: of the tensors that are to be replaced.
        packed_alone: how many experts were packed without the others of their layers.
    """

    model: nn.Module
    tensors: Overlaid
    names: set[str]
    packed_alone: int = 0
    _loads: Loads = field(default_factory=dict)
    _experts: dict[nn.Module, list[int]] = field(default_factory=dict)
    """By layer, the experts of which something is to be replaced."""

    def run(self, config: Any) -> list[str]:
        """Replace the tensors; returns what does not serve them then."""
        initialize_layerwise_reload(self.model)
        replaced = list(self._read(self.names))
        self._loads = loads_of(self.model, replaced)
        loaded = sum(load.tensor.numel() for loads in self._loads.values() for load in loads)
        if loaded != sum(tensor.numel() for _, tensor in replaced):
            return ["a layer that vLLM loads in a way of its own"]
        for layer, loads in self._loads.items():
            self._experts[layer] = sorted({load.expert for load in loads if load.expert is not None})
        blocks = _by_block(self.tensors.base.files, {_block(name) for name in self.names})
        beside = {name for names in blocks.values() for name in self._needed(names)}
        self._add(beside)
        rows = {layer: found for layer in self._loads if (found := self._packed_rows(layer))}
        whole = [layer for layer in self._loads if layer not in rows]
        if any(map(by_experts, whole)):
            self._add({name for names in blocks.values() for name in names} - beside)
        for layer in whole:
            self._replace(layer)
        finalize_layerwise_reload(self.model, config)
        for layer, found in rows.items():
            self.packed_alone += len(self._experts[layer])
            for kind, weight in found.items():
                served(layer)[kind].data[self._experts[layer]] = weight
        named = {layer: name for name, layer in self.model.named_modules()}
        return [named[layer] for layer in whole if not proven(layer, self._loads[layer])]

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        return ((name, self.tensors.read(name)) for name in sorted(names))

    def _needed(self, block: Sequence[str]) -> set[str]:
        """Of the tensors of a decoder layer those that go beside changed ones: all but other experts than a witness."""
        changed = {expert for name in block if name in self.names and (expert := _expert(name)) is not None}
        others = {expert for name in block if (expert := _expert(name)) is not None} - changed
        wanted = changed | {min(others)} if changed and others else changed
        return {name for name in block if (expert := _expert(name)) is None or expert in wanted}

    def _add(self, names: set[str]) -> None:
        """Note what the layers that change would load of further tensors."""
        more = loads_of(self.model, self._read(names - self.names))
        for layer, loads in self._loads.items():
            loads += more.get(layer, [])

    def _packed_rows(self, layer: nn.Module) -> Packed | None:
        """The changed experts of a layer, packed alone; None where that is no way to pack them, by the witness."""
        changed = self._experts[layer]
        loaded = {load.expert for load in self._loads[layer]}
        others = sorted(expert for expert in loaded if expert is not None and expert not in changed)
        if not by_experts(layer) or not changed or not others or None in loaded:
            return None
        (witness,) = others[:1]
        found = packed(layer, self._loads[layer], [*changed, witness])
        kernel = served(layer)
        if any(kernel[kind].shape[1:] != rows.shape[1:] for kind, rows in found.items()):
            return None
        if not all(torch.equal(kernel[kind][witness], rows[-1]) for kind, rows in found.items()):
            return None
        return {kind: rows[:-1] for kind, rows in found.items()}

    def _replace(self, layer: nn.Module) -> None:
        """Have vLLM load all of a layer, and pack it."""
        forget(layer)
        for load in self._loads[layer]:
            load.run()


def _block(name: str) -> str:
    found = BLOCK.match(name)
    return found.group() if found else ""


def _by_block(names: Iterable[str], blocks: set[str]) -> dict[str, list[str]]:
    """The names of the tensors of some decoder layers, by layer."""
    found: dict[str, list[str]] = {block: [] for block in blocks}
    for name in names:
        if (block := _block(name)) in found:
            found[block].append(name)
    return found


def _expert(name: str) -> int | None:
    found = EXPERT.search(name)
    return int(found[1]) if found else None
