"""ESFT with the routers besides: the selected experts and what sends tokens to them are trained together.

A combination that people ask for; the official code trains routers only with everything else that is no expert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.esft import EsftGate
from esft_bench.methods.moe.selection import Selection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.view import MoeLayer


class EsftRouter(EsftGate):
    """Train the selected experts and, gently, the routers of their layers; ESFT-Gate's selection by default.

    Layers without a selected expert keep their router.

    Attributes:
        router_lr_factor: what the learning rate is multiplied by for routers; a tenth is this project's choice.
    """

    name: ClassVar[str] = "esft-router"
    router_lr_factor: float = Field(default=0.1, gt=0)

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where a layer has no router that is seen."""
        from esft_bench.methods.moe.view import moe_layers, router_parameters

        super().check_model(model)
        for layer in moe_layers(model).values():
            router_parameters(model, layer)

    def unfreeze_others(self, model: PreTrainedModel, layers: dict[int, MoeLayer], selection: Selection) -> None:
        """Unfreeze the routers too. Raises MethodError where a trained layer has none that is seen."""
        from esft_bench.methods.moe.view import router_parameters

        super().unfreeze_others(model, layers, selection)
        for index, chosen in selection.items():
            for parameter in router_parameters(model, layers[index]) if chosen else ():
                parameter.requires_grad_(True)

    def learning_rate_factors(self, model: PreTrainedModel) -> dict[str, float]:
        """The factor of every router."""
        from esft_bench.methods.moe.view import moe_layers, router_parameters

        routers = {id(weight) for layer in moe_layers(model).values() for weight in router_parameters(model, layer)}
        return {name: self.router_lr_factor for name, weight in model.named_parameters() if id(weight) in routers}
