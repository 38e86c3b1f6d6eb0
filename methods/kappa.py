"""Training the best-conditioned experts: a choice that needs no data.

An expert whose matrices have a low condition number κ = σ_max / σ_min holds less that is special in few directions, so
that changing it is held to break least. Source: KappaTune, as peft has it (`peft.helpers.find_kappa_target_modules`),
which ranks whole layers' tensors by the mean of their experts' κ; here single experts are ranked by the mean over their
matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.expert_training import ExpertTraining
from esft_bench.methods.method import Context
from esft_bench.methods.moe.selection import Selection, check_count

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.unread import Unread
    from esft_bench.methods.moe.view import MoeLayer


SMALLEST = 1e-8
"""Added to the smallest singular value, as peft does."""


class Kappa(ExpertTraining):
    """Train the `count` experts of each layer whose matrices have the lowest condition numbers; all else is frozen.

    Attributes:
        count: experts trained in a layer; more than a layer has are refused.
    """

    name: ClassVar[str] = "kappa"
    needs_profile: ClassVar[bool] = False
    count: int = Field(default=6, ge=1)

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where a layer has fewer experts than are to be trained."""
        from esft_bench.methods.moe.view import moe_layers

        super().check_model(model)
        for layer in moe_layers(model).values():
            check_count(layer.index, layer.num_experts, self.count)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model but for the chosen experts. Raises MethodError for a model without routed experts."""
        return self.train_experts(model, self.chosen(model, context.unread))

    def chosen(self, model: PreTrainedModel, unread: Unread | None = None) -> Selection:
        """The experts with the lowest κ, lowest first; of equal ones the lower id."""
        from esft_bench.methods.moe.view import moe_layers

        if unread is not None:
            ranked = unread.measured(model, _of_experts)
        else:
            ranked = {index: _of_experts(layer) for index, layer in moe_layers(model).items()}
        return {index: row.sort(stable=True).indices[: self.count].tolist() for index, row in ranked.items()}


def _of_experts(layer: MoeLayer) -> Tensor:
    """κ of each of a layer's experts, summed over its matrices, [E]."""
    import torch

    numbers = [condition_numbers(layer.experts.get_parameter(name)).cpu() for name in layer.weights]
    return sum(numbers, torch.zeros(layer.num_experts))


def condition_numbers(weight: Tensor) -> Tensor:
    """κ of each expert's matrix in a fused parameter [E, …, …]: σ_max / σ_min [E].

    On the meta device, where a plan is priced, all are alike.
    """
    import torch

    if weight.is_meta:
        return torch.ones(len(weight))
    # Through the smaller Gram matrix, in float64: a third of the time of singular values in float32, and no less exact.
    wide = weight if weight.shape[1] <= weight.shape[2] else weight.mT
    values = torch.stack([_singular_values(matrix) for matrix in wide.detach()])
    return (values[:, -1] / (values[:, 0] + SMALLEST)).float()


def _singular_values(matrix: Tensor) -> Tensor:
    """Those of one matrix [m, n], m ≤ n, ascending [m], float64."""
    import torch

    rows = matrix.double()
    values: Tensor = torch.linalg.eigvalsh(rows @ rows.T)
    return values.clamp(min=0).sqrt()
