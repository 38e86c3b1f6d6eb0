"""Training the attention and the routers alone, which sharpens the routing of a domain to few experts.

Source: stage 1 of the expert-concentration paper's two-stage fine-tuning; alone, a row of its ablation (Table 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.hub import hub_tensors, write_trained
from esft_bench.methods.method import Context, Method
from esft_bench.methods.overlay import overlay

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


class AttentionRouter(Method):
    """Train the projections of every attention and all routers; experts, embeddings and norms are frozen."""

    name: ClassVar[str] = "attention-router"

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError for a model without routed experts, routers or attention."""
        attention_and_routers(model)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze all else. Raises MethodError for a model without routed experts, routers or attention."""
        from esft_bench.methods.moe.experts import use_fast_experts

        trained = attention_and_routers(model)
        model.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        use_fast_experts(model)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the trained tensors alone, under their names in hub checkpoints."""
        write_trained(model, folder)

    def merge(self, base: Path, adapter: Path, out: Path) -> None:
        """Write `base` with the adapter's tensors in place of its own."""
        overlay(base, adapter, out)


def attention_and_routers(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """What this trains, by name. Raises MethodError for a model without routed experts, routers or attention."""
    from esft_bench.methods.moe.view import attention_parameters, moe_layers, router_parameters

    routers = [weight for layer in moe_layers(model).values() for weight in router_parameters(model, layer)]
    chosen = {id(parameter) for parameter in (*attention_parameters(model), *routers)}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}


def first_stage_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The same under their names in hub checkpoints, whether they are trained now or were before."""
    return hub_tensors(model, {name: weight.detach() for name, weight in attention_and_routers(model).items()})
