"""A row as a curve: trained at several multiples of its learning rate, to be read at equal gain."""

from typing import Annotated

from pydantic import Field

from esft_bench.spec.names import Once
from esft_bench.spec.strict import Strict

Multiple = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
"""What a learning rate is multiplied by."""
ITSELF = 1.0
"""The row itself: what Tables 1 to 3 show."""


class Curve(Strict):
    """At which multiples of its own learning rate every row is trained; 1, the row itself, is always among them.

    The other points enter the curve of gain against forgetting and nothing else.
    """

    rates: Annotated[list[Multiple], Once] = Field([ITSELF])

    @property
    def points(self) -> list[float]:
        """The multiples, the row itself first and then from the lowest up."""
        return [ITSELF, *sorted({*self.rates} - {ITSELF})]
