"""Training the routers alone: how far a task gets by being sent to other experts, with no expert changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.part_training import PartTraining, named

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class RouterOnly(PartTraining):
    """Train all routers; everything else is frozen. The lower end of what the other methods are measured against."""

    name: ClassVar[str] = "router-only"

    def part(self, model: PreTrainedModel) -> dict[str, nn.Parameter]:
        """The routers. Raises MethodError for a model without routed experts or routers."""
        from esft_bench.methods.moe.view import moe_layers, router_parameters

        return named(
            model, [weight for layer in moe_layers(model).values() for weight in router_parameters(model, layer)]
        )
