"""Full fine-tuning with frozen routers: tokens of a kind keep their experts.

Source: a row of DenseMixer's comparison (yaof20/DenseMixer, README), where it is as good as conventional fine-tuning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.part_training import PartTraining

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class FrozenRouter(PartTraining):
    """Train everything but the routers."""

    name: ClassVar[str] = "frozen-router"

    def part(self, model: PreTrainedModel) -> dict[str, nn.Parameter]:
        """All but the routers. Raises MethodError for a model without routed experts or routers."""
        from esft_bench.methods.moe.view import moe_layers, router_parameters

        routers = {id(weight) for layer in moe_layers(model).values() for weight in router_parameters(model, layer)}
        return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in routers}
