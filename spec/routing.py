"""What a run knows about its routers and chosen experts: one file, `routing.json`, beside the results.

The harness writes it from profiles and adapters, with every number that a figure about experts shows; figures read it
and draw.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from esft_bench.spec.results import write_text
from esft_bench.spec.strict import Strict

FILE = "routing.json"
Grid = list[list[float]]
"""A number for each layer and expert, [L][E]."""
Kind = Literal["gate", "token"]
"""Mean gate weight of an expert, or its share of the token-expert pairs."""


Quantity = Literal["experts", "shift", "consistency"]
"""Experts trained, and the two measures of `Shift`."""


class TaskProfile(Strict):
    """How a backbone routes the data of one task, as measured on one sample of it.

    Attributes:
        task, title: the task's name and how tables print it.
        sample: 0 or 1; two samples share no sequence, so that they can be held against each other.
        gate: mean gate weight of each expert, not normalised (ESFT paper, Equation 6, pooled over tokens).
        token: share of the token-expert pairs that are an expert's; a layer sums to 1 (Equation 7, pooled).
    """

    task: str
    title: str
    sample: int = 0
    gate: Grid
    token: Grid


class Concentration(Strict):
    """The share of a layer's weight that its n highest experts hold, for n = 1 … E, on a task's first sample.

    Attributes:
        mean, deviation: over layers, [E].
        each_mean, each_deviation: the same of the n-th highest expert alone, the paper's falling curve.
    """

    task: str
    title: str
    score: Kind
    mean: list[float]
    deviation: list[float]
    each_mean: list[float] = Field(default_factory=list)
    each_deviation: list[float] = Field(default_factory=list)


class Overlap(Strict):
    """How many experts are among a layer's top k on the first sample of one task and the second one of another.

    Attributes:
        shared: mean over layers.
    """

    first: str
    second: str
    score: Kind
    shared: float


class OfCell(Strict):
    """What belongs to one cell of the matrix."""

    method: str
    method_title: str
    task: str
    seed: int


class SelectedExperts(OfCell):
    """The routed experts that a cell trained: ids by layer number, best first."""

    experts: dict[int, list[int]]


class GivenSelection(OfCell):
    """A selection that a row was given, beside what its scores choose from the profile of this run; by layer.

    Attributes:
        given, chosen: how many experts either has.
        both: how many are in both.
        as_many: how many of the given ones are among as many with the highest scores.
    """

    given: list[int]
    chosen: list[int]
    both: list[int]
    as_many: list[int]


class Shift(OfCell):
    """How far training moved a cell's routing of its own task's data, measured on the same sequences before and after.

    Attributes:
        distance: total variation between the two distributions of token-expert pairs, for each layer, 0 to 1.
        gate: mean gate weights after training, as in `TaskProfile`.
        consistency: mean over experts of the squared change of the average routing score, for each layer; their mean
            is RC (expert-concentration paper, Equations 4 and 5). Like the next, none where routers do not tell scores.
        advantage: C-DAS@k (its Equation 2, a sum over layers) before and after training, both against the general data
            before it; none where the general data were not profiled.
    """

    distance: list[float]
    gate: Grid
    consistency: list[float] | None = None
    advantage: tuple[float, float] | None = None


class OverCells(Strict):
    """A quantity of a row by layer, over its cells: how many experts were trained, or how far the routing moved.

    Attributes:
        task: of whose cells; empty for all cells of the row.
        mean, low, high: [L], `low` and `high` being the lowest and the highest cell.
    """

    quantity: Quantity
    method: str
    method_title: str
    task: str = ""
    mean: list[float]
    low: list[float]
    high: list[float]


class Routing(Strict):
    """All of it. `layers` are the numbers of the MoE layers in order; the rows of every grid are theirs."""

    backbone: str
    layers: list[int]
    num_experts: int
    top_k: int
    profiles: list[TaskProfile] = Field(default_factory=list)
    concentrations: list[Concentration] = Field(default_factory=list)
    overlaps: list[Overlap] = Field(default_factory=list)
    selections: list[SelectedExperts] = Field(default_factory=list)
    given: list[GivenSelection] = Field(default_factory=list)
    shifts: list[Shift] = Field(default_factory=list)
    over_cells: list[OverCells] = Field(default_factory=list)

    def titles(self) -> dict[str, str]:
        """How tables print the profiled tasks."""
        return {profile.task: profile.title for profile in self.profiles}


def write(routing: Routing, folder: Path) -> None:
    """Write `routing.json` into `folder`, beside and renamed."""
    write_text(folder / FILE, routing.model_dump_json() + "\n")


def read(folder: Path) -> Routing | None:
    """Read `routing.json`; None where there is none or it cannot be read."""
    try:
        return Routing.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None
