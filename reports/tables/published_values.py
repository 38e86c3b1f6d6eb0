"""The values of papers, as data: `published/*.yaml`, each table with its source."""

from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import yaml
from pydantic import Field, model_validator

from esft_bench.spec.strict import Strict

Kind = Literal["ability", "general", "ablation", "retained", "costs"]


class PublishedTable(Strict):
    """A table as it was published.

    Attributes:
        title, kind: which of our tables it stands beside; in an `ablation` a row is named after the one it ablates.
        average: how its averages weigh columns: `tasks`, all alike; `items`, by `items`; or `unknown`.
        items: items of each column, where averages weigh by them.
        judged: columns that a model judged.
        digits: decimals it was printed with.
        backbone: as the paper says it; `backbones`: parts of names or paths by which ours is known to be the same.
        source: document and table.
        rows: values by row title, in the order of `columns`; `averages` as printed; `half_widths` of 95% intervals,
            the average's last; `ranges` over tasks of rows of which nothing else is told, in a table of one column.
    """

    title: str
    kind: Kind
    digits: int
    backbone: str
    backbones: list[str]
    source: str
    columns: list[str]
    rows: dict[str, list[float]]
    average: Literal["tasks", "items", "unknown"] = "tasks"
    items: list[int] = Field(default_factory=list)
    judged: list[str] = Field(default_factory=list)
    averages: dict[str, float] = Field(default_factory=dict)
    half_widths: dict[str, list[float]] = Field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _every_row_has_every_column(self) -> "PublishedTable":
        wrong = [name for name, row in self.rows.items() if len(row) != len(self.columns)]
        wrong += [name for name, row in self.half_widths.items() if len(row) != len(self.columns) + 1]
        wrong += ["items"] if (self.average == "items") != (len(self.items) == len(self.columns)) else []
        wrong += ["ranges"] if self.ranges and len(self.columns) > 1 else []
        if wrong or not set(self.averages) <= set(self.rows) or not set(self.half_widths) <= set(self.rows):
            raise ValueError(f"{self.source}: rows and columns do not fit ({', '.join(wrong) or 'unknown row names'})")
        return self

    def mean(self, row: str) -> float:
        """The average of the row's columns as the paper weighs them; all alike where that is not known."""
        return float(np.average(self.rows[row], weights=self.items or None))

    def misprinted(self) -> dict[str, float]:
        """Rows whose printed average is not that of their columns, beyond rounding: the printed value."""
        unit = 10.0**-self.digits
        return {row: value for row, value in self.averages.items() if abs(value - self.mean(row)) > unit + 1e-9}


class Published(Strict):
    """A paper's tables. `aliases`: other titles under which its rows and columns are known here."""

    paper: str
    source: str
    aliases: dict[str, list[str]] = Field(default_factory=dict)
    tables: list[PublishedTable] = Field(min_length=1)


@cache
def published(paper: str) -> Published:
    """Read a paper's values: `esft`, `das` or `densemixer`."""
    text = resources.files(__package__).joinpath("published", f"{paper}.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))
