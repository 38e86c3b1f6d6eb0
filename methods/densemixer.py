"""Full fine-tuning with a gradient for every gate: the router learns of the experts that it did not choose, too.

Source: DenseMixer (yaof20/DenseMixer); the rule is in `methods.moe.dense_gate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.method import Context
from esft_bench.methods.part_training import PartTraining

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class DenseMixer(PartTraining):
    """Train all parameters; each gate's gradient comes from all experts' outputs, an expert's from its own tokens."""

    name: ClassVar[str] = "densemixer"

    def part(self, model: PreTrainedModel) -> dict[str, nn.Parameter]:
        """Everything. Raises MethodError for a model without routed experts or routers."""
        from esft_bench.methods.moe.view import moe_layers, router_parameters

        for layer in moe_layers(model).values():
            router_parameters(model, layer)
        return dict(model.named_parameters())

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Unfreeze the model, and have gates learn densely. Raises MethodError as `part` does."""
        from esft_bench.methods.moe.dense_gate import use_dense_gates
        from esft_bench.methods.moe.view import moe_layers

        parameters = super().prepare(model, context)
        use_dense_gates(model, moe_layers(model))
        return parameters
