"""How a suite's rows are tuned: what is searched, by how many trials, and how they are stopped early."""

from math import exp, log
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveFloat, model_validator

from esft_bench.spec.names import Count, Names, Once, Seed
from esft_bench.spec.strict import Strict

DIGITS = 4
"""Learning rates that a search comes to are rounded to so many: two searches then meet at the same ones."""


class Range(Strict):
    """The values from `low` to `high`; on a `log` scale, evenly in their logarithms. Whole numbers stay whole."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _goes_up(self) -> "Range":
        if self.low >= self.high:
            raise ValueError("`low` must be below `high`")
        if self.log and self.low <= 0:
            raise ValueError("a range on a log scale begins above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether it is one of whole numbers."""
        return self.low.is_integer() and self.high.is_integer() and not self.log


class Rates(Strict):
    """Learning rates from `low` to `high`."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _goes_up(self) -> "Rates":
        if self.low >= self.high:
            raise ValueError("`low` must be below `high`")
        return self


LearningRates = Rates | Annotated[list[PositiveFloat], Once, Field(min_length=1)]
Values = Range | Annotated[list[JsonValue], Field(min_length=2)]
"""What a hyperparameter may be: any of a list, or anything in a range."""


class Space(BaseModel):
    """What is searched for one row: its learning rates, and hyperparameters by name, as further fields."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Values]
    learning_rate: LearningRates | None = None

    @property
    def others(self) -> dict[str, Values]:
        """What is searched besides the learning rate."""
        return dict(self.__pydantic_extra__)


class Tune(Strict):
    """The search for each row's learning rate, the same for every row: as many trials, of as many steps.

    A trial trains the row on the task's data without `training.validation_items` rows, and the loss on these says how
    good its values are; test items have no part in it. The first trials span a bracket, `learning_rate` or one
    `ratio` below and above the row's own; each further one is a `ratio` beyond an end as long as the best rate is
    there, and halves the wider gap beside the best one when it is not. All `trials` take the first rung's steps; of
    each rung one in `reduction` goes on to the next, which takes `reduction` times as many steps; the last of `rungs`
    takes as many as the row's own training does. Short trainings favour high rates, so `beside` further trials take the
    last rung next to the best one there: below it, then above it, until it is inside.

    `per` says whether values are found for each `task`, as whoever trains on one would, or for all tasks of a `row`
    together, by the mean of their losses. `rows` are those tuned; unless named, every row that is trained and follows
    no other. A row that ablates or continues another takes what was found for that one, unless it is named, or has a
    learning rate of its own. `seed` is that of all trials; it should be none of the suite's.
    """

    per: Literal["task", "row"] = "task"
    trials: Count = 6
    rungs: Annotated[int, Field(ge=1, le=10)] = 2
    reduction: Annotated[int, Field(ge=2, le=100)] = 3
    beside: Annotated[int, Field(ge=0, le=100)] = 2
    learning_rate: LearningRates | None = None
    ratio: Annotated[float, Field(ge=1.01, le=1000)] = 3.0
    rows: Names | None = Field(None, min_length=1)
    seed: Seed = 1000

    def first_rates(self, own: float, space: Space) -> list[float]:
        """The learning rates that a search begins with: those given for the row, for all, or about its own; rising.

        Raises ValueError for more than there are trials.
        """
        rates = space.learning_rate or self.learning_rate
        low, high = (rates.low, rates.high) if isinstance(rates, Rates) else (own / self.ratio, own * self.ratio)
        first = sorted(rates) if isinstance(rates, list) else [*map(rounded, (low, between(low, high), high))]
        if len(first) > self.trials:
            raise ValueError(f"a search begins with {len(first)} learning rates, and tune.trials is {self.trials}")
        return first

    def steps(self, rung: int, last: int) -> int:
        """The steps of a trial on a rung, where the last rung takes `last`; at least 2, which two stages take."""
        return max(min(2, last), round(last / int(self.reduction ** (self.rungs - 1 - rung))))

    @property
    def counts(self) -> list[int]:
        """How many trials each rung has, where none diverges; with a single rung it has none beside."""
        found = [self.trials]
        while len(found) < self.rungs:
            found.append(max(1, found[-1] // self.reduction))
        return [*found[:-1], found[-1] + self.beside] if self.rungs > 1 else found

    def budget(self, last: int) -> int:
        """All steps of a search, where the last rung takes `last` and no trial diverges."""
        return sum(count * self.steps(rung, last) for rung, count in enumerate(self.counts))


def rounded(rate: float) -> float:
    """A learning rate to so many digits."""
    return float(f"{rate:.{DIGITS}g}")


def between(low: float, high: float) -> float:
    """The middle of two rates on a log scale."""
    return exp((log(low) + log(high)) / 2)
