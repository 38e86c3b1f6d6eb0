"""What a row needs that does not fit one device: how many share its model (FSDP2), the memory of each, the hours.

Each device holds its share of weights, optimizer state and gradients, and besides what its part of the batch needs, the
layer at work and the next one, whole, and what is no layer's (embeddings and head). What devices send each other is
taken to go on beside the work.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.plan.price.estimate import TrainingPrice, step_of
from esft_bench.harness.plan.price.hardware import MARGIN, Accelerator
from esft_bench.harness.plan.price.step import SimulatedStep
from esft_bench.harness.steps.graph import Graph

COUNTS = (*range(2, 9), *range(16, 129, 8))
"""How many devices are thought of: those of one node, and nodes of eight."""


@dataclass(frozen=True)
class Sharing:
    """`devices` that share a row's model, the `bytes_each` holds, and the `seconds` that they take for a cell."""

    row: str
    devices: int
    bytes_each: float
    seconds: float


def sharings(
    plan: Plan, graph: Graph, device: Accelerator, prices: list[TrainingPrice], micro_batch: int | None
) -> list[Sharing]:
    """How the rows of `prices` that one device does not hold fit several; 0 `devices` where not even the most do."""
    names = {plan.suite.title(row): row for row in plan.methods}
    large = [price for price in prices if not price.why_not and price.peak_bytes > MARGIN * device.memory]
    return [_sharing(plan, graph, device, names[price.row], price, micro_batch) for price in large]


def _sharing(
    plan: Plan, graph: Graph, device: Accelerator, row: str, price: TrainingPrice, micro_batch: int | None
) -> Sharing:
    for count, each in _needs(plan, graph, row, micro_batch):
        if each <= MARGIN * device.memory:
            size = plan.suite.training.batch_size
            idle = ceil(size / count) * count / size  # some have one sequence less to work on
            return Sharing(price.row, count, each, price.seconds * idle / count)
    return Sharing(price.row, 0, each, 0.0)


def _needs(plan: Plan, graph: Graph, row: str, micro_batch: int | None) -> Iterator[tuple[int, float]]:
    """Numbers of devices, and what each holds at most in any stage of a row's training."""
    stages = plan.paths[next(cell for cell in plan.cells if cell.method == row)].training.whole
    known: dict[int, list[SimulatedStep]] = {}
    for count in COUNTS:
        share = ceil(plan.suite.training.batch_size / count)
        size = min(micro_batch or share, share)
        if size not in known:
            known[size] = [step_of(plan, graph, stage, size, shared=True) for stage in stages]
        yield count, max(bytes_of_each(step, count) for step in known[size])


def bytes_of_each(step: SimulatedStep, devices: int) -> float:
    """The most that one of several devices holds at a time, of a step that was simulated as `shared`."""
    shares = (step.held_bytes + step.trainable_bytes) / devices
    return shares + (step.peak_bytes - step.held_bytes) + 2 * step.layer_bytes + step.other_bytes
