"""Training the attention and the routers alone, which sharpens the routing of a domain to few experts.

Source: stage 1 of the expert-concentration paper's two-stage fine-tuning; alone, a row of its ablation (Table 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.hub import hub_tensors
from esft_bench.methods.part_training import PartTraining, named

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


class AttentionRouter(PartTraining):
    """Train the projections of every attention and all routers; experts, embeddings and norms are frozen."""

    name: ClassVar[str] = "attention-router"

    def part(self, model: PreTrainedModel) -> dict[str, nn.Parameter]:
        """Attention and routers. Raises MethodError for a model without routed experts, routers or attention."""
        return attention_and_routers(model)


def attention_and_routers(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """What this trains, by name. Raises MethodError for a model without routed experts, routers or attention."""
    from esft_bench.methods.moe.view import attention_parameters, moe_layers, router_parameters

    routers = [weight for layer in moe_layers(model).values() for weight in router_parameters(model, layer)]
    return named(model, [*attention_parameters(model), *routers])


def first_stage_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The same under their names in hub checkpoints, whether they are trained now or were before."""
    return hub_tensors(model, {name: weight.detach() for name, weight in attention_and_routers(model).items()})
