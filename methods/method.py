"""What a method is. A new method is one new file with one class.

The training loop knows no method by name: it asks the method to prepare a model, trains the parameters it gets
back, and asks the method to export what changed. Merging turns a base checkpoint and an export into a plain
Hugging Face checkpoint that any server loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import PreTrainedModel

from methods.moe.profile import Profile


@dataclass(frozen=True)
class Context:
    """What a method may look at when it prepares a model.

    `profile` holds the expert statistics of the training task's data (None where the method's `needs_profile` is
    False); `seed` is the cell's seed, for methods that draw.
    """

    seed: int
    profile: Profile | None = None


class Method(BaseModel):
    """A way of fine-tuning; its fields are its hyperparameters, frozen, with the paper's defaults.

    Class attributes:
        trains: False for a row that only evaluates (the base model).
        needs_profile: True if `prepare` reads `context.profile`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    trains: ClassVar[bool] = True
    needs_profile: ClassVar[bool] = False

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Make `model` trainable this method's way, in place, and return the parameters to train.

        Everything else is frozen. The parameters are registered in the model, so that accelerate, DDP and optimizers
        meet ordinary parameters. Raises MethodError where the model does not fit.
        """
        raise NotImplementedError

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the adapter, only what changed, as safetensors and JSON into the existing, empty `folder`."""
        raise NotImplementedError

    def merge(self, base: Path, adapter: Path, out: Path) -> None:
        """Write into the empty folder `out` the Hugging Face checkpoint that `base` with `adapter` is."""
        raise NotImplementedError
