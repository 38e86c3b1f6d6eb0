"""Ablations of expert selection: as many experts in each layer as a method selects, but chosen otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_serializer, field_validator

from esft_bench.methods.expert_training import ExpertTraining, chosen_experts
from esft_bench.methods.grouped_experts import GroupedExperts
from esft_bench.methods.method import Context, FirstStage, Method

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.profile import Profile
    from esft_bench.methods.moe.selection import Selection


class SelectionAblation(Method):
    """Train other experts, with the counts and options of the selection that this is the ablation of.

    Attributes:
        of: that selection's settings, in a suite a mapping with its `method`, of any that ranks experts.
    """

    needs_profile: ClassVar[bool] = True
    of: ExpertTraining = Field(examples=[{"method": "esft-token"}])

    @field_serializer("of")
    def _with_its_name(self, value: ExpertTraining) -> dict[str, Any]:
        """As a suite has it, so that it can be read again."""
        return {"method": value.name, **value.model_dump(mode="json")}

    @field_validator("of", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        from esft_bench.methods.registry import load_methods  # which imports this module

        if not isinstance(value, Mapping) or "method" not in value:
            return value
        settings = dict(value)
        name = settings.pop("method")
        selectors = {name: method for name, method in load_methods().items() if _ranks(method)}
        if name not in selectors:
            raise ValueError(f"'{name}' selects no experts; its ablation takes counts from {', '.join(selectors)}")
        return selectors[name].model_validate(settings)

    @property
    def needs_general(self) -> bool:  # type: ignore[override]
        """As what it ablates."""
        return self.of.needs_general

    @property
    def held_whole(self) -> str:  # type: ignore[override]
        """As what it ablates."""
        return self.of.held_whole

    @property
    def first_stage(self) -> FirstStage | None:
        """As what it ablates: only the choice of experts is another."""
        return self.of.first_stage

    @property
    def together(self) -> bool:
        """As what it ablates."""
        return self.of.together

    def for_task(self, task: str) -> SelectionAblation:
        """The ablation of what the ablated method is on a task."""
        return self.model_copy(update={"of": self.of.for_task(task)})

    def instead(self, selected: Selection, profiles: Sequence[Profile], context: Context) -> Selection:
        """Choose the experts to train, in each layer as many as `selected` has there."""
        raise NotImplementedError

    @field_validator("of")
    @classmethod
    def _of_experts(cls, value: ExpertTraining) -> ExpertTraining:
        if isinstance(value, GroupedExperts) and value.group_size > 1:
            raise ValueError("an ablation takes counts of experts, not of groups: leave out group_size")
        return value

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where the ablated method does."""
        self.of.check_model(model)

    def select(self, profile: Profile, context: Context) -> Selection:
        """Choose the experts to train, in each layer as many as `of` selects there."""
        return self.instead(self.of.choice(context)(profile), [profile], context)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model but for the chosen experts. Raises MethodError as ESFT does."""
        selected = chosen_experts(model, context, self.of.choice(context))
        profiles = [profile for profile in (context.profile, *context.further) if profile is not None]
        return self.of.train_experts(model, self.instead(selected, profiles, context))

    def learning_rate_factors(self, model: PreTrainedModel) -> Mapping[str, float]:
        """As what it ablates."""
        return self.of.learning_rate_factors(model)

    def also_written(self, model: PreTrainedModel) -> Sequence[str]:
        """As what it ablates."""
        return self.of.also_written(model)

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the official adapter layout."""
        self.of.export(model, folder)

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write the adapter's tensors."""
        self.of.write_changed(base, adapter, folder)


def _ranks(method: type[Method]) -> bool:
    """Whether a method selects experts by a ranking of its own."""
    return issubclass(method, ExpertTraining) and method.ranking is not ExpertTraining.ranking
