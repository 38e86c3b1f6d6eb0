"""What a run knows about its routers and chosen experts: one file, `routing.json`, beside the results.

The harness writes it from profiles and adapters; figures about experts read it and nothing else.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esft_bench.spec.results import write_text

FILE = "routing.json"
Grid = list[list[float]]
"""A number for each layer and expert, [L][E]."""


class Strict(BaseModel):
    """Frozen, and no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class Selection(Strict):
    """The routed experts that a cell trained: ids by layer number, best first."""

    method: str
    method_title: str
    task: str
    seed: int
    experts: dict[int, list[int]]


class Shift(Strict):
    """How far training moved a cell's routing of its own task's data, measured on the same sequences before and after.

    Attributes:
        distance: total variation between the two distributions of token-expert pairs, for each layer, 0 to 1.
        gate: mean gate weights after training, as in `TaskProfile`.
    """

    method: str
    method_title: str
    task: str
    seed: int
    distance: list[float]
    gate: Grid


class Routing(Strict):
    """All of it. `layers` are the numbers of the MoE layers in order; the rows of every grid are theirs."""

    backbone: str
    layers: list[int]
    num_experts: int
    top_k: int
    profiles: list[TaskProfile] = []
    selections: list[Selection] = []
    shifts: list[Shift] = []


def write(routing: Routing, folder: Path) -> None:
    """Write `routing.json` into `folder`, beside and renamed."""
    write_text(folder / FILE, routing.model_dump_json() + "\n")


def read(folder: Path) -> Routing | None:
    """Read `routing.json`; None where there is none or it cannot be read."""
    try:
        return Routing.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None
