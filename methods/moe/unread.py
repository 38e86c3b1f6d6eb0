"""What can be known of the weights of a model on the meta device: its checkpoint is read, expert by expert."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, distributed, nn
from transformers import PreTrainedModel

from esft_bench.methods.moe.places import read_experts
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.methods.tensor_files import TensorFiles

Measure = Callable[[MoeLayer], Tensor]
"""Measures each of a layer's experts, [E], by their weights alone."""


@dataclass(frozen=True)
class Unread:
    """The weights that a model on the meta device has not.

    Attributes:
        files: the tensors of its checkpoint.
        known: what was measured of the experts of each layer, by its number; kept, since it takes long.
    """

    files: TensorFiles
    known: dict[int, list[float]] = field(default_factory=dict)

    def measured(self, model: PreTrainedModel, measure: Measure) -> dict[int, Tensor]:
        """A measure of each expert, [E] for each layer, with one expert at a time in memory.

        Processes that train together share the experts out, and each gets all numbers; all of them must call this.
        """
        if not self.known:
            layers = moe_layers(model)
            rows = torch.zeros(len(layers), max(layer.num_experts for layer in layers.values()), device=_device())
            together = distributed.is_initialized()
            process, processes = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
            own = [(row, expert) for row, layer in enumerate(layers.values()) for expert in range(layer.num_experts)]
            for row, expert in own[process::processes]:
                rows[row, expert] = self._of_expert(model, list(layers.values())[row], expert, measure)
            if together:
                distributed.all_reduce(rows)  # each number is of one process, and 0 of the others
            told = zip(layers.items(), rows.tolist(), strict=True)
            self.known.update({index: row[: layer.num_experts] for (index, layer), row in told})
        return {index: torch.tensor(row) for index, row in self.known.items()}

    def _of_expert(self, model: PreTrainedModel, layer: MoeLayer, expert: int, measure: Measure) -> float:
        room = nn.Module()
        for kind in layer.kinds:
            whole = layer.experts.get_parameter(kind)
            room.register_parameter(kind, nn.Parameter(torch.empty(1, *whole.shape[1:], dtype=whole.dtype), False))
        alone = replace(layer, experts=room, num_experts=1)
        read_experts(model, alone, [expert], self.files)
        return float(measure(replace(alone, experts=room.to(_device()))))


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
