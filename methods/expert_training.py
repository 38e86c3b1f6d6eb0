"""Training some routed experts of each layer: what every method of that kind shares, whatever chooses the experts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.layout import AdapterConfig, base_name
from esft_bench.methods.moe.selection import Selection, check
from esft_bench.methods.overlay import take_changed

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.profile import Profile
    from esft_bench.methods.moe.scores import Scores
    from esft_bench.methods.moe.view import MoeLayer


class ExpertTraining(Method):
    """Train the experts that `select` chooses from the profile of the task's data; all else is frozen.

    Attributes:
        shared_experts: train the shared experts too.
        non_expert_modules: train everything that is no expert too (attention, routers, embeddings, norms).
    """

    needs_profile: ClassVar[bool] = True
    held_whole: ClassVar[str] = ""
    shared_experts: bool = False
    non_expert_modules: bool = False

    def select(self, profile: Profile) -> Selection:
        """Choose the experts to train from a profile."""
        raise NotImplementedError

    def choice(self, context: Context) -> Callable[[Profile], Selection]:
        """What chooses the experts from a profile, given what else a cell knows."""
        return self.select

    def ranking(self, profile: Profile, context: Context) -> Scores:
        """What experts are chosen by; only for methods that rank them, of which there are ablations."""
        raise NotImplementedError

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError for a model without routed experts, or without the shared ones that are to be trained."""
        from esft_bench.methods.moe.view import moe_layers

        super().check_model(model)
        layers = moe_layers(model)
        if self.shared_experts and not any(layer.shared for layer in layers.values()):
            raise MethodError(f"shared_experts is set, but {type(model).__name__} has no shared experts; leave it out")

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model but for the selected experts, which become trainable banks of their layers.

        Raises MethodError for a model without routed experts, a profile of another model or an empty selection.
        """
        return self.train_selected(model, context, self.choice(context))

    def train_selected(
        self, model: PreTrainedModel, context: Context, choose: Callable[[Profile], Selection]
    ) -> Sequence[nn.Parameter]:
        """Prepare `model` to train the experts that `choose` takes from the profile, with this method's options."""
        return self.train_experts(model, chosen_experts(model, context, choose))

    def train_experts(self, model: PreTrainedModel, selection: Selection) -> Sequence[nn.Parameter]:
        """Prepare `model` to train the experts of `selection`, valid for it, with this method's options.

        Raises MethodError where experts of this form cannot be trained or exported one by one.
        """
        from esft_bench.methods.moe.experts import use_selective_experts
        from esft_bench.methods.moe.export import check_exportable
        from esft_bench.methods.moe.view import moe_layers

        model.requires_grad_(False)
        self.unfreeze_others(model, moe_layers(model), selection)
        use_selective_experts(model, selection)
        check_exportable(model)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the official adapter layout: `expert_cfg.json` and one tensor for each expert and projection."""
        from esft_bench.methods.moe.export import write_adapter

        config = AdapterConfig(
            experts={}, shared_experts=self.shared_experts, non_expert_modules=self.non_expert_modules
        )
        write_adapter(model, folder, config, self.other_tensors(model))

    def other_tensors(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """Tensors of hub checkpoints that the adapter has besides what is trained, such as those of a first stage."""
        return {}

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write the adapter's tensors; official adapters are accepted too."""
        from esft_bench.methods.moe.adapter_check import check_adapter  # here: it brings torch along

        check_adapter(adapter, base)
        take_changed(base, adapter, folder, rename=base_name)

    def unfreeze_others(self, model: PreTrainedModel, layers: dict[int, MoeLayer], selection: Selection) -> None:
        """Unfreeze what the options name outside the routed experts."""
        if self.non_expert_modules:
            model.requires_grad_(True)
            for layer in layers.values():
                layer.experts.requires_grad_(False)
        for layer in layers.values():
            for _, module in layer.shared:
                module.requires_grad_(self.shared_experts)


def chosen_experts(model: PreTrainedModel, context: Context, choose: Callable[[Profile], Selection]) -> Selection:
    """The experts that `choose` takes from the cell's profile, or from any of them where tasks are trained together.

    Raises MethodError where there is no profile, it is of another model, or the selection does not fit `model`.
    """
    from esft_bench.methods.moe.view import moe_layers

    layers = moe_layers(model)
    if context.profile is None:
        raise MethodError("expert selection needs a profile of the task's data, and none was given")
    profiles = (context.profile, *context.further)
    for profile in profiles:
        _check_profile(profile, layers)
    selection = _union([choose(profile) for profile in profiles])
    check(selection, layers)
    return selection


def _union(selections: Sequence[Selection]) -> Selection:
    """What any of the selections has: the first one's experts, then what the next ones add."""
    named = {layer: [chosen.get(layer, []) for chosen in selections] for part in selections for layer in part}
    return {layer: list(dict.fromkeys(itertools.chain(*experts))) for layer, experts in sorted(named.items())}


def _check_profile(profile: Profile, layers: dict[int, MoeLayer]) -> None:
    experts = {layer.num_experts for layer in layers.values()}
    if profile.layers != tuple(layers) or experts != {profile.num_experts}:
        raise MethodError(
            f"the profile has {profile.num_experts} experts in layers {list(profile.layers)}, the model "
            f"{sorted(experts)} in layers {list(layers)}; profile the data with this model"
        )
