"""What a method is. A new method is one new file with one class.

The training loop knows no method by name: it asks the method to prepare a model, trains the parameters it gets
back, and asks the method to export what changed. Merging turns a base checkpoint and an export into a plain
Hugging Face checkpoint that any server loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from esft_bench.methods.changes import Changes
    from esft_bench.methods.moe.profile import Profile
    from esft_bench.methods.moe.unread import Unread


@dataclass(frozen=True)
class Context:
    """What a method may look at when it prepares a model.

    Profiles are of the model that `prepare` gets: the backbone, or what the first stage made of it.

    Attributes:
        seed: the cell's seed, for methods that draw.
        profile: expert statistics of the training task's data; None where the method's `needs_profile` is False.
        general: those of the general data; None where `needs_general` is False.
        reprofile: profiles the training task's data again, with a model that `prepare` has changed; None where the
            method's `needs_profile` is False.
        further: expert statistics of the other tasks' data, where several are trained together.
        unread: where the weights lie of a model that `prepare` gets on the meta device, to be trained all the same.
    """

    seed: int
    profile: Profile | None = None
    general: Profile | None = None
    reprofile: Callable[[PreTrainedModel], Profile] | None = None
    further: tuple[Profile, ...] = ()
    unread: Unread | None = None


@dataclass(frozen=True)
class FirstStage:
    """A training that goes before a method's own, on the same data, and takes some of the cell's steps.

    Attributes:
        method: its name among the methods; `hyperparameters`: that method's fields, where not its defaults.
        share: its share of the cell's steps, in (0, 1); the rest is the method's own.
        learning_rate: None for the cell's.
    """

    method: str
    share: float
    learning_rate: float | None = None
    hyperparameters: tuple[tuple[str, Any], ...] = ()


class Method(BaseModel):
    """A way of fine-tuning; its fields are its hyperparameters, frozen, with the paper's defaults.

    Class attributes:
        name: what a suite calls it. A class of this package without one of its own is no row, only a base of others.
        trains: False for a row that only evaluates (the base model).
        needs_profile: True if `prepare` reads `context.profile` and `context.further`.
        needs_general: True if it reads `context.general`.
        of_one_backbone: True for what fits one backbone only; left out where a command puts another in its place.
        held_whole: why processes cannot each hold some of the experts for it; empty where they can. What it trains of
            routed experts then stays the same and is selected experts (banks, or low-rank updates of these), all of
            them or none, and `prepare` and `export` look at no weights but what is trained, what `also_written` names
            and what `context.unread` and `context.reprofile` give.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    trains: ClassVar[bool] = True
    needs_profile: ClassVar[bool] = False
    needs_general: ClassVar[bool] = False
    of_one_backbone: ClassVar[bool] = False
    held_whole: ClassVar[str] = "the method does not say that it can do without the weights of all experts"

    @property
    def expert_parallel(self) -> bool:
        """Whether processes can each hold some of the experts."""
        return not self.held_whole

    @property
    def by_task(self) -> bool:
        """Whether there is a cell for each task; without it the row is one cell, tested on every task."""
        return self.trains

    @property
    def first_stage(self) -> FirstStage | None:
        """The training whose result `prepare` is to get; what both change, `export` must write."""
        return None

    @property
    def together(self) -> bool:
        """Whether one cell trains all tasks, on their mixture, where the row does not say."""
        return False

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError where a model cannot be trained this way, as far as its architecture alone tells.

        It is asked before anything is computed, with a model on the meta device, which has shapes and no weights.
        """

    def for_task(self, task: str) -> Method:
        """The method as a cell of `task` has it."""
        return self

    def source(self, backbone: Path) -> Path | None:
        """The folder of files that this brings along, fetched if need be; their contents are part of the cell's key.

        Called before anything is computed. Raises MethodError where they cannot be had or do not fit `backbone`.
        """
        return None

    @property
    def other_readings(self) -> Sequence[Method]:
        """Other ways in which the files it brings along may be meant, where nothing in them tells.

        Whoever merges them compares the loss on rows of the task, and refuses what another reading fits better.
        """
        return ()

    def remarks(self, context: Context) -> Sequence[str]:
        """What a report must say about what `prepare` makes of a context."""
        return ()

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Make `model` trainable this method's way, in place, and return the parameters to train.

        Everything else is frozen. The parameters are registered in the model, so that accelerate, DDP and optimizers
        meet ordinary parameters. Raises MethodError where the model does not fit.
        """
        raise NotImplementedError

    def learning_rate_factors(self, model: PreTrainedModel) -> Mapping[str, float]:
        """What the learning rate is multiplied by, for parameters of a prepared model by name; 1 where not named."""
        return {}

    def changes(self, model: PreTrainedModel, context: Context) -> Changes | None:
        """What changes which parameters of a prepared model are trained while it trains; None where nothing does."""
        return None

    @property
    def at_most(self) -> Method:
        """A method that trains from the start what this one trains at most: its step is what a plan estimates."""
        return self

    def also_written(self, model: PreTrainedModel) -> Sequence[str]:
        """Names of the parameters and buffers that `export` writes of a prepared model besides what is trained."""
        return ()

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the adapter, only what changed, as safetensors and JSON into the existing, empty `folder`."""
        raise NotImplementedError

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write into the empty `folder` what `adapter` changes in `base`: what a server swaps in.

        The tensors as they become, by their names in `base` (row 7 of one as `NAME[7]`), and `config.json` where it
        becomes another. This one finds them in the merged checkpoint, which costs as much as the model; a method
        defines `write_changed` or `merge`.
        """
        from esft_bench.methods.overlay import write_different

        with TemporaryDirectory(dir=folder.parent, prefix=".merge-") as whole:
            self.merge(base, adapter, Path(whole))
            write_different(base, Path(whole), folder)

    def merge(self, base: Path, adapter: Path, out: Path) -> None:
        """Write into the empty folder `out` the Hugging Face checkpoint that `base` with `adapter` is."""
        from esft_bench.methods.overlay import MODEL_CONFIG, link, overlay

        with TemporaryDirectory(dir=out.parent, prefix=".merge-") as changed:
            self.write_changed(base, adapter, Path(changed))
            if (Path(changed) / MODEL_CONFIG).is_file():
                link(Path(changed) / MODEL_CONFIG, out / MODEL_CONFIG)
            overlay(base, Path(changed), out)
