"""Training a named part of a model as it is, and nothing else: what the methods of that kind share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.hub import write_trained
from esft_bench.methods.method import Context, Method
from esft_bench.methods.overlay import take_changed

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class PartTraining(Method):
    """Train the parameters that `part` names; all else is frozen, and the adapter is those parameters."""

    held_whole: ClassVar[str] = ""

    def part(self, model: PreTrainedModel) -> Mapping[str, nn.Parameter]:
        """What is trained, by name. Raises MethodError for a model that has no such part."""
        raise NotImplementedError

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError for a model that has no such part."""
        self.part(model)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze all else. Raises MethodError for a model that has no such part."""
        from esft_bench.methods.moe.experts import use_fast_experts

        trained = self.part(model)
        model.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        use_fast_experts(model)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the trained tensors alone, under their names in hub checkpoints."""
        write_trained(model, folder)

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write the adapter's tensors."""
        take_changed(base, adapter, folder)


def named(model: PreTrainedModel, wanted: Sequence[nn.Parameter]) -> dict[str, nn.Parameter]:
    """Parameters of a model by their names in it."""
    chosen = {id(parameter) for parameter in wanted}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
