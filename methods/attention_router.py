"""Training the attention and the routers alone, which sharpens the routing of a domain to few experts.

Source: stage 1 of the expert-concentration paper's two-stage fine-tuning; alone, a row of its ablation (Table 4).
"""

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from methods.checkpoint import overlay
from methods.method import Context, Method
from methods.moe.experts import use_fast_experts
from methods.moe.layout import write_trained
from methods.moe.view import attention_parameters, moe_layers, router_parameters


class AttentionRouter(Method):
    """Train the projections of every attention and all routers; experts, embeddings and norms are frozen."""

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze all else. Raises MethodError for a model without routed experts, routers or attention."""
        routers = [weight for layer in moe_layers(model).values() for weight in router_parameters(model, layer)]
        model.requires_grad_(False)
        for parameter in (*attention_parameters(model), *routers):
            parameter.requires_grad_(True)
        use_fast_experts(model)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the trained tensors alone, under their names in hub checkpoints."""
        write_trained(model, folder)

    def merge(self, base: Path, adapter: Path, out: Path) -> None:
        """Write `base` with the adapter's tensors in place of its own."""
        overlay(base, adapter, out)
