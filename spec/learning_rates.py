"""Learning rates to begin with: `learning_rates.yaml`, by method and hidden size, each with its source."""

import math
from functools import cache
from itertools import pairwise
from pathlib import Path

from pydantic import Field, PositiveFloat, TypeAdapter

from esft_bench.spec.strict import Strict
from esft_bench.spec.yaml_text import parse, read

FILE = Path(__file__).with_suffix(".yaml")


class Known(Strict):
    """A rate that did well for a model of that hidden size, and who says so."""

    hidden: int = Field(ge=1)
    rate: PositiveFloat
    source: str


TABLE = TypeAdapter(dict[str, list[Known]])


@cache
def known() -> dict[str, list[Known]]:
    """All that is known, by method, smallest model first."""
    return TABLE.validate_python(parse(read(FILE), FILE.name))


def learning_rate(method: str, hidden: int) -> tuple[float, str] | None:
    """A rate for a method on a model of that hidden size, and where it is from; None for a method without any.

    Between two sizes it lies on the straight line through the logarithms of both; beyond the last it stays.
    """
    rows = known().get(method)
    if not rows:
        return None
    if hidden <= rows[0].hidden or hidden >= rows[-1].hidden:
        row = rows[0] if hidden <= rows[0].hidden else rows[-1]
        return row.rate, row.source
    low, high = next(pair for pair in pairwise(rows) if pair[0].hidden <= hidden <= pair[1].hidden)
    place = math.log(hidden / low.hidden) / math.log(high.hidden / low.hidden)
    rate = low.rate * (high.rate / low.rate) ** place
    return float(f"{rate:.2g}"), f"between {low.source} (hidden size {low.hidden}) and {high.source} ({high.hidden})"
