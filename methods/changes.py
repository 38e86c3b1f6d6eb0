"""What a method may do between two steps of a training: change which parameters are trained.

The training loop knows nothing else of it: it asks after each step but the last, hands the optimizer the parameters
that are trained from then on, and keeps the state in checkpoints, beside weights and moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn

Moved: TypeAlias = "Mapping[nn.Parameter, tuple[nn.Parameter, Tensor]]"
"""New parameters, each with the one whose rows it has, and which (LongTensor).

A trained parameter that is not named here and was not trained before begins anew; one that was trained before and is
there no more is forgotten.
"""


@dataclass(frozen=True)
class Done:
    """What a method may look at between two steps.

    Attributes:
        step: the steps done, from 1.
        held_out: the losses on held-out rows so far, in order; none where nobody looks.
        summed: adds up a tensor over the processes that train together; all of them call it.
    """

    step: int
    held_out: Sequence[float]
    summed: Callable[[Tensor], Tensor]


class Changes:
    """Changes of what is trained in a model that a method has prepared. Every process makes the same."""

    def seeing(self, real: Tensor) -> AbstractContextManager[None]:
        """Around each forward pass of a training step; of its tokens those count where `real` (B, T) is True."""
        return nullcontext()

    def after(self, done: Done) -> Moved | None:
        """Change the model, if it is time; returns what became of its parameters, None where nothing is changed."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """All that a training which goes on from here has to know, besides the trained parameters' values."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give a prepared model the parameters that it had, values aside, and go on from there."""
        raise NotImplementedError
