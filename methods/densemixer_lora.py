"""LoRA with trained routers, and a gradient for every gate: DenseMixer where experts are adapted by low-rank updates.

Source: DenseMixer (yaof20/DenseMixer), whose LoRA runs train the routers as they are; the rule is in
`methods.moe.dense_gate`. Rank, alpha and dropout are its defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class DenseMixerLora(Lora):
    """Train low-rank updates of all linear layers, and the routers, whose gates learn from all experts' outputs."""

    name: ClassVar[str] = "densemixer-lora"
    rank: int = Field(default=64, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    experts: bool = True
    dropout: float = Field(default=0.1, ge=0, lt=1)
    routers: bool = True

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Add the adapter to the model, in place, and have gates learn densely. Raises MethodError as `lora` does."""
        from esft_bench.methods.moe.dense_gate import use_dense_gates
        from esft_bench.methods.moe.view import moe_layers

        layers = moe_layers(model)
        parameters = super().prepare(model, context)
        use_dense_gates(model, layers)
        return parameters
