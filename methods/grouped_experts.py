"""Training a coarse-grained model that groups of experts simulate: what ESFT and full fine-tuning share of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from esft_bench.methods.atomic import write_json
from esft_bench.methods.errors import MethodError
from esft_bench.methods.hub import hub_tensors
from esft_bench.methods.method import Context, Method

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.grouping import Groups


class GroupedExperts(Method):
    """A method that may train the coarse-grained model in place of the backbone (ESFT paper, Appendix C).

    Attributes:
        group_size: experts that share one gate and are chosen together, see `methods.moe.grouping`; 1 changes nothing.
            It must divide the number of experts; that of experts a token is sent to is rounded to whole groups. Groups
            come from the profile of the general data.
    """

    held_whole: ClassVar[str] = ""
    group_size: int = Field(default=1, ge=1)

    @property
    def needs_general(self) -> bool:  # type: ignore[override]
        """Groups are made by how general data are routed."""
        return self.group_size > 1

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where the model's experts cannot be grouped."""
        from esft_bench.methods.moe.grouping import check_groups
        from esft_bench.methods.moe.view import moe_layers

        super().check_model(model)
        for layer in moe_layers(model).values() if self.group_size > 1 else ():
            check_groups(model, layer, self.group_size)

    def remarks(self, context: Context) -> list[str]:
        """That groups are not the best of all, where there are too many of them to look for that."""
        from esft_bench.methods.moe.grouping import can_search

        if self.group_size == 1 or context.general is None:
            return list(super().remarks(context))
        experts = context.general.num_experts
        grown = [] if can_search(experts, self.group_size) else [self._grown(experts)]
        return [*super().remarks(context), *grown]

    def _grown(self, experts: int) -> str:
        size = self.group_size
        return (
            f"Groups of {size} of {experts} experts: each is grown from the most similar pair, not the best of all "
            f"{comb(experts, size):,} groups (ESFT paper, Appendix C), which are too many to look at."
        )

    def group(self, model: PreTrainedModel, context: Context) -> Groups:
        """Make `model` the coarse-grained one, in place; returns its groups. Raises MethodError where it cannot be."""
        from esft_bench.methods.moe.grouping import group_experts, use_grouped_routers

        if context.general is None:
            raise MethodError("experts are grouped by a profile of general data, and none was given")
        groups = group_experts(model, context.general, self.group_size)
        use_grouped_routers(model, groups)
        return groups

    def also_written(self, model: PreTrainedModel) -> Sequence[str]:
        """The routers, where experts are grouped."""
        from esft_bench.methods.moe.view import moe_layers

        routers = [str(layer.router) for layer in moe_layers(model).values()] if self.group_size > 1 else []
        return [f"{path}.{name}" for path in routers for name in model.get_submodule(path).state_dict()]

    def grouped_routers(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """What grouping made of the routers, under their names in hub checkpoints; from now on their own weights."""
        if self.group_size == 1:
            return {}
        from esft_bench.methods.moe.grouping import settle_routers

        return hub_tensors(model, settle_routers(model))

    def merge_config(self, base: Path, folder: Path) -> None:
        """Write the base's configuration with as many experts a token as the coarse-grained model has."""
        if self.group_size > 1:
            from esft_bench.methods.moe.grouping import TOP_K, whole_groups

            path = base / "config.json"
            config = json.loads(path.read_text("utf-8"))
            if TOP_K not in config:
                raise MethodError(f"{path} has no `{TOP_K}`, so groups of experts cannot be served")
            write_json(folder / path.name, config | {TOP_K: whole_groups(config[TOP_K], self.group_size)})
