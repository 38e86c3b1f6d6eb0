"""Expert-specialized fine-tuning: train only the experts that a task uses most (arXiv 2407.01906)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from esft_bench.methods.errors import MethodError
from esft_bench.methods.expert_training import ExpertTraining
from esft_bench.methods.grouped_experts import GroupedExperts
from esft_bench.methods.method import Context
from esft_bench.methods.moe.layout import read_config
from esft_bench.methods.moe.released_scores import read_rows
from esft_bench.methods.moe.scores import Score, ScoreRule, Scores, as_shares, expert_scores, most_over_one, scores_of
from esft_bench.methods.moe.selection import Selection, check, check_rows, select

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from esft_bench.methods.moe.profile import Profile


PLACE = "{task}"
PUBLISHED = Path(__file__).parent / "published"
"""Selections that others have published, as they are: SOURCE/BACKBONE/TASK/KIND.json; its README says whose."""


class ThresholdSelection(BaseModel):
    """ESFT's selection of experts: in each layer, those with the highest scores until their sum reaches `p`.

    Attributes:
        score: what is measured of an expert, see `methods.moe.scores`.
        p: threshold on the cumulated score, in (0, 1]. Where a layer's scores add up to more than 1, as with
            sigmoid routers, it is a share of their sum.
        score_rule: how scores are averaged, see `methods.moe.scores.ScoreRule`.
        selection: experts by layer in place of a selection, or the path of an adapter or its `expert_cfg.json`, or the
            name of a published one, such as `densemixer/olmoe/{task}/gate`; `{task}` stands for the cell's task.
        tasks: what stands for `{task}` where that is not the task's name.
        first_layer: the number that the file of `selection` has for the model's first layer; DenseMixer counts from 1.
        scores: scores by layer in place of the profile's, or the path of an official `summary.json`.
    """

    score: Score
    p: float = Field(gt=0, le=1)
    score_rule: ScoreRule = "released"
    tasks: Mapping[str, str] = {}
    first_layer: int = Field(default=0, ge=0)
    selection: Selection | str | None = None
    scores: dict[int, list[float]] | None = None

    @field_validator("selection", mode="before")
    @classmethod
    def _read_selection(cls, value: Any, info: ValidationInfo) -> Any:
        """Files are read at once: what is asked for is then their contents, whatever becomes of them.

        One for each task is read when it is known which task it is.
        """
        if not isinstance(value, str | Path) or PLACE in str(value):
            return value
        return read_selection(str(value), info.data.get("first_layer", 0))

    @field_validator("scores", mode="before")
    @classmethod
    def _read_scores(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str | Path):
            return value
        if info.data.get("score") not in ("gate", "token"):
            raise ValueError(f"score files hold gate and token scores, not {info.data.get('score')}")
        return read_rows(Path(value).expanduser(), info.data["score"])

    @model_validator(mode="after")
    def _one_sound_source(self) -> ThresholdSelection:
        if self.selection is not None and self.scores is not None:
            raise ValueError("a selection leaves nothing to select by scores: give one of the two")
        if self.scores is not None:
            check_rows(self.scores)
        return self

    def for_task(self, task: str) -> Self:
        """The same with the selection of a task, where there is one for each. Raises MethodError where there is not."""
        if not isinstance(self.selection, str):
            return self
        name = self.selection.replace(PLACE, self.tasks.get(task, task))
        return self.model_copy(update={"selection": read_selection(name, self.first_layer), "tasks": {}})

    def scores_of(self, profile: Profile) -> Scores:
        """The scores that experts are selected by, given or a profile's."""
        if self.scores is not None:
            return scores_of(self.scores)
        return expert_scores(profile, self.score, self.score_rule)

    def select(self, profile: Profile) -> Selection:
        """Choose the experts to train, from a profile unless they or their scores are given."""
        if isinstance(self.selection, str):
            raise MethodError(f"{self.selection} is one selection for each task, and none of them was asked for")
        return self.own_choice(profile) if self.selection is None else self.selection

    def own_choice(self, profile: Profile) -> Selection:
        """The experts that the scores choose, whatever selection is given."""
        return self.up_to_threshold(self.scores_of(profile))

    def up_to_threshold(self, scores: Scores) -> Selection:
        """In each layer, the experts whose scores reach `p`; where all add up to more than 1, that share of them."""
        return select(scores if self.score_rule == "upstream_script" else as_shares(scores), self.p)

    def remarks(self, context: Context) -> list[str]:
        """That `p` stands for a share, where the scores of a layer add up to more than 1 (a sigmoid router's do)."""
        if self.selection is not None or context.profile is None or self.score_rule == "upstream_script":
            return []
        most = most_over_one(self.scores_of(context.profile))
        if most is None:
            return []
        return [f"The scores of a layer's experts add up to {most:.1f}, not to 1, so p is a share of their sum."]

    def check_given(self, model: PreTrainedModel) -> None:
        """Raise MethodError where a selection or scores are given that do not fit the model."""
        from esft_bench.methods.moe.view import moe_layers

        layers = moe_layers(model)
        for one in [self.for_task(task) for task in self.tasks] if isinstance(self.selection, str) else [self]:
            if isinstance(one.selection, dict):
                check(one.selection, layers)
        if self.scores is not None:
            given = {index: len(row) for index, row in self.scores.items()}
            own = {index: layer.num_experts for index, layer in layers.items()}
            if given != own:
                raise MethodError(
                    f"the given scores are of {sorted(set(given.values()))} experts in layers {list(given)}, the model "
                    f"has {sorted(set(own.values()))} in layers {list(own)}; take scores of this model"
                )


def read_selection(name: str, first_layer: int = 0) -> Selection:
    """The experts of an adapter, its `expert_cfg.json`, or a published selection, by layer from 0.

    Raises MethodError where there is none of that name, or it is malformed.
    """
    path, shipped = Path(name).expanduser(), PUBLISHED / f"{name}.json"
    experts = read_config(shipped if shipped.is_file() and not path.exists() else path).experts
    return {layer - first_layer: chosen for layer, chosen in experts.items()}


class Esft(ThresholdSelection, GroupedExperts, ExpertTraining):
    """Train the experts whose cumulated score reaches `p` in each layer; all else is frozen, but for the options.

    With a `group_size` the experts of the simulated coarse-grained model are groups: it is profiled on the task's data,
    groups are selected by the sums of their experts' scores, and all experts of a selected group are trained.
    """

    @model_validator(mode="after")
    def _groups_are_selected_by_profile(self) -> Esft:
        if self.group_size > 1 and (self.selection is not None or self.scores is not None):
            raise ValueError("a selection or scores of single experts are no selection of groups: leave out group_size")
        return self

    def remarks(self, context: Context) -> list[str]:
        """What is to be said of the scores, and of the groups."""
        return [*super().remarks(context), *GroupedExperts.remarks(self, context)]

    def ranking(self, profile: Profile, context: Context) -> Scores:
        """The scores that experts are selected by, given or a profile's."""
        return self.scores_of(profile)

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where the model has no routed experts, or what is given does not fit them."""
        super().check_model(model)
        self.check_given(model)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Freeze the model but for the selected experts, or groups of them. Raises MethodError as others do."""
        from esft_bench.methods.moe.grouping import experts_of_groups, group_scores

        if self.group_size == 1:
            return super().prepare(model, context)
        groups = self.group(model, context)
        if context.reprofile is None:
            raise MethodError(
                "grouped experts are selected by a profile of the coarse model, which cannot be made here"
            )
        if context.further:
            raise MethodError("groups of experts are selected for one task at a time: leave out group_size")
        context = replace(context, profile=context.reprofile(model))
        return self.train_selected(
            model,
            context,
            lambda profile: experts_of_groups(
                self.up_to_threshold(group_scores(self.scores_of(profile), groups)), groups
            ),
        )

    def other_tensors(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """The routers, where experts are grouped."""
        return super().other_tensors(model) | self.grouped_routers(model)

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write the adapter's tensors, and the routing of grouped experts."""
        self.merge_config(base, folder)
        super().write_changed(base, adapter, folder)


class EsftGate(Esft):
    """Train the experts with the highest mean gate weights, up to the paper's threshold (ESFT-Gate)."""

    name: ClassVar[str] = "esft-gate"
    score: Score = "gate"
    p: float = Field(default=0.1, gt=0, le=1)


class EsftToken(Esft):
    """Train the experts that most tokens are sent to, up to the paper's threshold (ESFT-Token)."""

    name: ClassVar[str] = "esft-token"
    score: Score = "token"
    p: float = Field(default=0.2, gt=0, le=1)
