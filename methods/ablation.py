"""Ablations of expert selection: as many experts in each layer as ESFT selects, but chosen otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SerializeAsAny, field_validator

from esft_bench.methods.esft import Esft
from esft_bench.methods.expert_training import chosen_experts
from esft_bench.methods.method import Context, Method

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.profile import Profile
    from esft_bench.methods.moe.selection import Selection


class SelectionAblation(Method):
    """Train other experts, with the counts and options of the selection that this is the ablation of.

    Attributes:
        of: that selection's settings, in a suite a mapping with its `method`, of any that selects as ESFT does.
    """

    needs_profile: ClassVar[bool] = True
    of: SerializeAsAny[Esft] = Field(examples=[{"method": "esft-token"}])

    @field_validator("of", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        from esft_bench.methods.registry import load_methods  # which imports this module

        if not isinstance(value, Mapping) or "method" not in value:
            return value
        settings = dict(value)
        name = settings.pop("method")
        selectors = {name: method for name, method in load_methods().items() if issubclass(method, Esft)}
        if name not in selectors:
            raise ValueError(f"'{name}' selects no experts; its ablation takes counts from {', '.join(selectors)}")
        return selectors[name].model_validate(settings)

    @property
    def together(self) -> bool:
        """As what it ablates."""
        return self.of.together

    def instead(self, selected: Selection, profiles: Sequence[Profile], seed: int) -> Selection:
        """Choose the experts to train, in each layer as many as `selected` has there."""
        raise NotImplementedError

    @field_validator("of")
    @classmethod
    def _of_experts(cls, value: Esft) -> Esft:
        if value.group_size > 1:
            raise ValueError("an ablation takes counts of experts, not of groups: leave out group_size")
        return value

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where the ablated method does."""
        self.of.check_model(model)

    def select(self, profile: Profile, seed: int) -> Selection:
        """Choose the experts to train, in each layer as many as `of` selects there."""
        return self.instead(self.of.select(profile), [profile], seed)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model but for the chosen experts. Raises MethodError as ESFT does."""
        selected = chosen_experts(model, context, self.of.select)
        profiles = [profile for profile in (context.profile, *context.further) if profile is not None]
        return self.of.train_experts(model, self.instead(selected, profiles, context.seed))

    def learning_rate_factors(self, model: PreTrainedModel) -> Mapping[str, float]:
        """As what it ablates."""
        return self.of.learning_rate_factors(model)

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the official adapter layout."""
        self.of.export(model, folder)

    def merge(self, base: Path, adapter: Path, out: Path) -> None:
        """Write `base` with the adapter's tensors in place of its own."""
        self.of.merge(base, adapter, out)
