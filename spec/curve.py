"""A row as a curve: trained at several multiples of its learning rate, or of its steps, to be read at equal gain."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from esft_bench.spec.names import Once
from esft_bench.spec.strict import Strict

Multiple = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
"""What a learning rate, or a number of steps, is multiplied by."""
Multiples = Annotated[list[Multiple], Once]
ITSELF = 1.0
"""The row itself: what Tables 1 to 3 show."""
Along = Literal["learning rate", "number of steps"]


class Curve(Strict):
    """At which multiples of its own learning rate, or its steps, every row is trained; 1, the row, is among them.

    The other points enter the curve of gain against forgetting and nothing else.
    """

    rates: Multiples = Field([ITSELF])
    steps: Multiples = Field([ITSELF])

    @model_validator(mode="after")
    def _along_one(self) -> "Curve":
        if {*self.rates} - {ITSELF} and {*self.steps} - {ITSELF}:
            raise ValueError("a curve goes over `rates` or over `steps`; for both write two suites")
        return self

    @property
    def along(self) -> Along:
        """What its points are multiples of."""
        return "number of steps" if {*self.steps} - {ITSELF} else "learning rate"

    @property
    def points(self) -> list[float]:
        """The multiples, the row itself first and then from the lowest up."""
        return [ITSELF, *sorted({*self.rates, *self.steps} - {ITSELF})]

    def steps_at(self, point: float, own: int) -> int:
        """The steps of a row at a point of its curve, where it takes `own`; at least 2, which two stages take."""
        return own if self.along == "learning rate" else max(min(2, own), round(own * point))
